"""`fleet deliberation`: ask for one, look at one, watch, cancel and repeat it."""

import sys
from collections.abc import Mapping
from typing import Any

import click
from rich.text import Text

from fleet.cli.client import Client, at
from fleet.cli.output import (
    COLOURS,
    json_option,
    print_deliberation,
    print_json,
    print_page,
    seconds,
    status,
    task_of,
    when,
)
from fleet.cli.parameters import ID, ROLE, STATUS, limit_option
from fleet.cli.watch import finish, wait_for
from fleet.models import MAX_AGENTS, MAX_ROUNDS

wait_option = click.option("--wait", is_flag=True, help="Wait for the result, showing what happens.")


@click.group()
def deliberation() -> None:
    """Ask a council, watch it, cancel it, read its decision."""


@deliberation.command()
@click.argument("task")
@click.option("--role", type=ROLE, required=True, help="The council to ask.")
@click.option("--rounds", type=click.IntRange(0, MAX_ROUNDS), help="Rounds of review; the council's own unless given.")
@click.option("--agents", type=click.IntRange(1, MAX_AGENTS), help="Agents; as many as the council has unless given.")
@click.option("--requirement", "requirements", multiple=True, help="What the result has to meet; may be repeated.")
@click.option("--timeout", type=click.IntRange(1, 86_400), metavar="SECONDS", help="Time for all phases together.")
@click.option("--story", metavar="ID", type=ID, help="The story that it belongs to.")
@wait_option
@json_option
def run(
    task: str, role: str, rounds: int | None, agents: int | None, requirements: tuple[str, ...], timeout: int | None,
    story: str | None, wait: bool, as_json: bool,
) -> None:  # fmt: skip
    """Ask one council to deliberate on TASK, - reads it from standard input.

    The time for all phases, from the first agent's start, is 300 s unless --timeout or FLEET_DELIBERATION_TIMEOUT_S
    says otherwise.

    \b
      fleet deliberation run "Write a function that parses ISO 8601 dates" --role DEV --wait
      fleet deliberation run "Plan the tests" --role QA --agents 5 --rounds 2 --requirement "covers leap years"
    """
    given = {"requirements": list(requirements) or None, "timeout_seconds": timeout}
    body = {"task_description": sys.stdin.read() if task == "-" else task, "role": role, "rounds": rounds}
    body |= {"num_agents": agents, "story_id": story, "constraints": _present(given) or None}
    _follow(Client().post(at("deliberations"), _present(body)), wait=wait, as_json=as_json)


@deliberation.command("list")
@click.option("--status", "state", type=STATUS, help="Only those with this status.")
@click.option("--role", type=ROLE, help="Only those of this council.")
@click.option("--plan", metavar="ID", type=ID, help="Only those of this plan.")
@limit_option
@json_option
def list_deliberations(state: str | None, role: str | None, plan: str | None, limit: int, as_json: bool) -> None:
    """List the deliberations, the newest first: those that run, and those finished within the last hour.

    FLEET_DELIBERATION_RETENTION_S says how long they are listed; `show` finds older ones too.
    """
    page = Client().pages(at("deliberations"), limit, status=state, role=role, plan_id=plan)
    if as_json:
        print_json(page)
    else:
        columns = ["deliberation", "role", "status", "since (UTC)", "took", "task"]
        print_page(page, "Deliberations", columns, _row)


@deliberation.command()
@click.argument("deliberation_id", type=ID)
@json_option
def show(deliberation_id: str, as_json: bool) -> None:
    """Show a deliberation: the ranked proposals, the winner and why, what failed."""
    found = Client().get(at("deliberations", deliberation_id))
    print_json(found) if as_json else print_deliberation(found)


@deliberation.command()
@click.argument("deliberation_id", type=ID)
@json_option
def watch(deliberation_id: str, as_json: bool) -> None:
    """Show what happens in a deliberation as it happens, then its result; exit code 1 if it failed.

    On a terminal with what its agents write, while they write it, as far as it can be had.

    Ctrl-C leaves the deliberation to go on; the exit code is then 130.
    """
    _wait(Client(), deliberation_id, as_json=as_json)


@deliberation.command()
@click.argument("deliberation_id", type=ID)
@json_option
def cancel(deliberation_id: str, as_json: bool) -> None:
    """Cancel a deliberation: what is queued never runs, what runs is told to stop, late answers do not count."""
    found = Client().post(at("deliberations", deliberation_id, "cancel"))
    print_json(found) if as_json else click.echo(f"{found['deliberation_id']} is {found['status']}")


@deliberation.command()
@click.argument("deliberation_id", type=ID)
@wait_option
@json_option
def replay(deliberation_id: str, wait: bool, as_json: bool) -> None:
    """Ask for a finished deliberation once more, as a new one with the same task, agents and constraints."""
    _follow(Client().post(at("deliberations", deliberation_id, "replay")), wait=wait, as_json=as_json)


def _follow(accepted: Mapping[str, Any], *, wait: bool, as_json: bool) -> None:
    """Waits for what was accepted, or says how to."""
    id = accepted["deliberation_id"]
    if wait:
        _wait(Client(), id, as_json=as_json)
    elif as_json:
        print_json(accepted)
    else:
        click.echo(id)
        click.echo(f"accepted: `fleet deliberation watch {id}` shows it", err=True)


def _wait(client: Client, id: str, *, as_json: bool) -> None:
    found = wait_for(client, [id], as_json=as_json)
    if as_json:
        print_json(found[0])
    finish(found, as_json=as_json)


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _row(found: Mapping[str, Any]) -> list[Any]:
    since, took = when(found["created_at_ms"]), seconds(found.get("duration_ms"))
    running = Text(found["step"], COLOURS["IN_PROGRESS"]) if found.get("step") else status(found["status"])
    return [found["deliberation_id"], found["role"], running, since, took, task_of(found)]
