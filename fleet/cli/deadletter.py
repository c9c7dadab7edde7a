from datetime import UTC, datetime

import click

from fleet.cli.client import Client
from fleet.cli.output import json_option, print_json, table


@click.group()
def deadletter() -> None:
    """What could not be processed, and why."""


@deadletter.command("list")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@json_option
def list_dead_letters(limit: int, as_json: bool) -> None:
    """List the dead letters, the newest first."""
    answer = Client().get("/v1/deadletters", limit=limit)
    if as_json:
        print_json(answer)
        return
    rows = [
        [one["dead_letter_id"], _when(one["created_at_ms"]), one["source"], one["reason"]] for one in answer["items"]
    ]
    table("Dead letters", ["id", "since (UTC)", "source", "reason"], rows)


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
