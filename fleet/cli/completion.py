"""`fleet completion`: scripts that complete the verbs and options in a shell."""

import click
from click.shell_completion import get_completion_class

from fleet.cli.output import json_option, print_json

_INSTALL = {
    "bash": "fleet completion bash > ~/.local/share/bash-completion/completions/fleet, then open a new shell",
    "zsh": 'fleet completion zsh > "${fpath[1]}/_fleet", then open a new shell',
    "fish": "fleet completion fish > ~/.config/fish/completions/fleet.fish, then open a new shell",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_INSTALL)))
@json_option
@click.pass_context
def completion(context: click.Context, shell: str, as_json: bool) -> None:
    """Print the script that completes `fleet` in a shell.

    How to install it comes on stderr.

    \b
      fleet completion bash > ~/.local/share/bash-completion/completions/fleet
    """
    made = get_completion_class(shell)
    assert made is not None
    script = made(context.find_root().command, {}, "fleet", "_FLEET_COMPLETE").source()
    if as_json:
        print_json({"shell": shell, "script": script, "install": _INSTALL[shell]})
    else:
        click.echo(script)
        click.echo(f"to install it: {_INSTALL[shell]}", err=True)
