import platform
from importlib.metadata import version as installed

import click

from fleet import __version__
from fleet.cli.output import json_option, print_json


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the versions of Fleet and its libraries."""
    found = {"fleet": __version__, "python": platform.python_version()}
    found |= {name: installed(name) for name in ("celery", "kombu", "redis", "nats-py", "neo4j")}
    if as_json:
        print_json(found)
    else:
        click.echo(" ".join(f"{name} {number}" for name, number in found.items()))
