"""The command line: one file per group of verbs. Exit codes: 0 ok, 1 failed, 2 bad usage, 3 cannot reach the fleet."""

import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

# Imported when used: completion and `--help` of one verb need not wait for all of them.
SECTIONS = {
    "Run a fleet": {
        "up": "processes:up",
        "listener": "processes:listener",
        "demo": "demo:demo",
        "doctor": "doctor:doctor",
    },
    "Work": {
        "plan": "plan:plan",
        "deliberation": "deliberation:deliberation",
        "council": "council:council",
    },
    "Look": {
        "events": "looking:events",
        "queues": "looking:queues",
        "jobs": "looking:jobs",
        "cluster": "looking:cluster",
        "stats": "looking:stats",
        "deadletter": "deadletter:deadletter",
    },
    "Set up": {
        "config": "config:config",
        "keys": "keys:keys",
        "models": "models:models",
        "completion": "completion:completion",
        "version": "version:version",
    },
}
_PLACES = {name: place for section in SECTIONS.values() for name, place in section.items()}


class Verbs(click.Group):
    """The verbs by section. Ctrl-C ends any of them quietly, with exit code 130."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _PLACES:
            return None
        module, _, attribute = _PLACES[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"fleet.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            commands = [(name, self.get_command(ctx, name)) for name in section]
            with formatter.section(title):
                formatter.write_dl([(name, one.get_short_help_str(limit=90)) for name, one in commands if one])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Councils of LLM agents as a durable task queue.

    \b
    Start a fleet on this machine:   fleet up
    Hand in a plan and wait for it:  fleet plan submit examples/password-reset.yaml --wait
    Ask one council:                 fleet deliberation run "…" --role DEV --wait
    Look at one decision:            fleet deliberation show ID

    The verbs find a running fleet through FLEET_DIR (default .fleet), or FLEET_URL and FLEET_API_KEY. With --json each
    prints one JSON document. Exit codes: 0 ok, 1 failed, 2 bad usage, 3 cannot reach the fleet.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a model wrote may have no form in this terminal
