import click

from fleet.cli.client import Client
from fleet.cli.output import json_option, print_json, table


@click.group()
def council() -> None:
    """The councils and their agents."""


@council.command("list")
@json_option
def list_councils(as_json: bool) -> None:
    """List the councils."""
    answer = Client().get("/v1/councils")
    if as_json:
        print_json(answer)
        return
    rows = [
        [one["role"], one["council_id"], one["status"], one["deliberation_rounds"], one["agent_type"], _agents(one)]
        for one in answer["items"]
    ]
    table("Councils", ["role", "council", "status", "rounds", "engine", "agents"], rows)


def _agents(one: dict[str, list[dict[str, str]]]) -> str:
    return ", ".join(agent["agent_id"] for agent in one["agents"])
