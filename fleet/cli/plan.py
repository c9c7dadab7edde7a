"""`fleet plan`: hand in a plan, look at one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fleet.cli.client import Client, at
from fleet.cli.documents import read_document
from fleet.cli.output import json_option, print_json, print_page, status, table, when
from fleet.cli.parameters import ID, limit_option
from fleet.cli.watch import finish, wait_for


@click.group()
def plan() -> None:
    """Hand in approved plans and look at them."""


@plan.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--wait", is_flag=True, help="Wait until every deliberation is final, showing what happens.")
@json_option
def submit(file: Path, wait: bool, as_json: bool) -> None:
    """Hand in the plan in FILE, - reads it from standard input.

    FILE has the JSON or YAML of POST /v1/plans: plan_id and story_id, title, description, roles or subtasks, rounds
    (0 to 3), num_agents (1 to 10), constraints. At most 1 MiB. The same plan again changes nothing.

    With --wait the exit code is 1 if any deliberation failed; Ctrl-C leaves them to go on.

    \b
      fleet plan submit examples/password-reset.yaml --wait
      generate-plan | fleet plan submit - --json
    """
    client = Client()
    receipt = client.post(at("plans"), read_document(file))
    if not as_json:
        print_receipt(receipt)
    elif not wait:
        print_json(receipt)
    if wait:
        found = wait_for(client, [one["deliberation_id"] for one in receipt["deliberations"]], as_json=as_json)
        if as_json:
            print_json({**receipt, "deliberations": found})
        finish(found, as_json=as_json)


@plan.command()
@click.argument("plan_id", type=ID)
@json_option
def show(plan_id: str, as_json: bool) -> None:
    """Show a plan and where its deliberations stand."""
    found = Client().get(at("plans", plan_id))
    print_json(found) if as_json else print_receipt(found)


@plan.command("list")
@click.option("--story", metavar="ID", type=ID, help="Only the plans of this story.")
@limit_option
@json_option
def list_plans(story: str | None, limit: int, as_json: bool) -> None:
    """List the plans of the last 35 days, the newest first."""
    page = Client().pages(at("plans"), limit, story_id=story)
    if as_json:
        print_json(page)
    else:
        print_page(page, "Plans", ["plan", "story", "since (UTC)", "title", "deliberations"], _row)


def print_receipt(receipt: Mapping[str, Any]) -> None:
    rows = [
        [one["role"], one["task_id"], status(one.get("status")), one["deliberation_id"]]
        for one in receipt["deliberations"]
    ]
    about = receipt.get("plan", {})
    title = " · ".join(filter(None, [f"Plan {receipt['plan_id']}", about.get("story_id"), about.get("title")]))
    table(title, ["role", "task", "status", "deliberation"], rows)
    for note in receipt.get("notes", ()):
        click.echo(f"note: {note}", err=True)


def _row(found: Mapping[str, Any]) -> list[Any]:
    about = found["plan"]
    states = [one.get("status") or "forgotten" for one in found["deliberations"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return [found["plan_id"], about["story_id"], when(found["created_at_ms"]), about.get("title"), counts]
