"""`fleet council`: the councils and their agents."""

from collections.abc import Mapping
from typing import Any

import click

from fleet.cli.client import Client, at
from fleet.cli.output import json_option, print_json, table
from fleet.cli.parameters import ID, ROLE
from fleet.models import MAX_AGENTS, MAX_ROUNDS


@click.group()
def council() -> None:
    """Look at the councils, make them, change their agents."""


@council.command("list")
@json_option
def list_councils(as_json: bool) -> None:
    """List the councils."""
    answer = Client().get(at("councils"))
    print_json(answer) if as_json else _print(answer["items"])


@council.command()
@click.argument("role", metavar="ROLE", type=ROLE)
@json_option
def show(role: str, as_json: bool) -> None:
    """Show the council of ROLE."""
    _print_one(Client().get(at("councils", role)), as_json)


@council.command()
@click.argument("role", metavar="ROLE", type=ROLE)
@click.option("--agents", type=click.IntRange(1, MAX_AGENTS), help="How many; FLEET_AGENTS_PER_COUNCIL unless given.")
@click.option(
    "--rounds", type=click.IntRange(0, MAX_ROUNDS), help="Rounds of review in a deliberation; 1 unless given."
)
@click.option("--model", help="The model that its agents ask an openai engine for; the engine's own unless given.")
@json_option
def create(role: str, agents: int | None, rounds: int | None, model: str | None, as_json: bool) -> None:
    """Create the council of ROLE; the same council again changes nothing.

    \b
      fleet council create DEV --agents 5 --rounds 2
    """
    wanted = {"role": role, "num_agents": agents, "deliberation_rounds": rounds, "model": model}
    body = {name: value for name, value in wanted.items() if value is not None}
    _print_one(Client().post(at("councils"), body), as_json)


@council.command()
@click.argument("role", metavar="ROLE", type=ROLE)
@json_option
def delete(role: str, as_json: bool) -> None:
    """Delete the council of ROLE; deliberations that run finish with the agents they began with."""
    Client().delete(at("councils", role))
    print_json({"role": role, "deleted": True}) if as_json else click.echo(f"the council {role} is deleted")


@council.command("add-agent")
@click.argument("role", metavar="ROLE", type=ROLE)
@click.argument("agent", type=ID, required=False)
@json_option
def add_agent(role: str, agent: str | None, as_json: bool) -> None:
    """Add an agent to the council of ROLE, by the next free id unless AGENT is given; a council has at most 10."""
    body = {"agent_id": agent} if agent else {}
    _print_one(Client().post(at("councils", role, "agents"), body), as_json)


@council.command("remove-agent")
@click.argument("role", metavar="ROLE", type=ROLE)
@click.argument("agent", type=ID)
@json_option
def remove_agent(role: str, agent: str, as_json: bool) -> None:
    """Remove AGENT from the council of ROLE; the last one stays until the council is deleted."""
    Client().delete(at("councils", role, "agents", agent))
    document = {"role": role, "agent_id": agent, "removed": True}
    print_json(document) if as_json else click.echo(f"{agent} is no more in the council {role}")


def _print_one(found: Mapping[str, Any], as_json: bool) -> None:
    print_json(found) if as_json else _print([found])


def _print(councils: list[Mapping[str, Any]]) -> None:
    columns = ["role", "status", "rounds", "engine", "model", "agents"]
    table("Councils", columns, [_row(one) for one in councils])


def _row(one: Mapping[str, Any]) -> list[Any]:
    about = [one["role"], one["status"], one["deliberation_rounds"], one["agent_type"]]
    return [*about, one.get("model"), ", ".join(agent["agent_id"] for agent in one["agents"])]
