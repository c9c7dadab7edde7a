"""`fleet plan`: hand in a plan, look at one."""

import sys
from pathlib import Path
from typing import Any

import click
import yaml

from fleet.cli.client import BAD_USAGE, FAILED, Client, fail
from fleet.cli.deliberation import FINAL, wait_for
from fleet.cli.output import json_option, print_deliberation, print_json, status, table


@click.group()
def plan() -> None:
    """Approved plans."""


@plan.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--wait", is_flag=True, help="Wait until every deliberation is final, showing what happens.")
@json_option
def submit(file: Path, wait: bool, as_json: bool) -> None:
    """Hand in a plan: FILE has the JSON or YAML of POST /v1/plans, - reads it from standard input.

    With --wait the exit code is 1 if any deliberation failed. The same plan again changes nothing.
    """
    client = Client()
    receipt = client.post("/v1/plans", read_plan(file))
    if not wait:
        print_json(receipt) if as_json else print_receipt(receipt)
        return
    if not as_json:
        print_receipt(receipt)
    found = [wait_for(client, one["deliberation_id"], quiet=as_json) for one in receipt["deliberations"]]
    if as_json:
        print_json({**receipt, "deliberations": found})
    else:
        for one in found:
            print_deliberation(one)
    if any(one["status"] in ("FAILED", "CANCELLED") for one in found):
        sys.exit(FAILED)


@plan.command()
@click.argument("plan_id")
@json_option
def show(plan_id: str, as_json: bool) -> None:
    """Show a plan with its deliberations."""
    found = Client().get(f"/v1/plans/{plan_id}")
    if as_json:
        print_json(found)
        return
    for one in found["deliberations"]:
        if one["status"] in FINAL and one.get("results") is not None:
            print_deliberation(one)
    print_receipt(found)


def read_plan(file: Path) -> Any:
    """The document in `file`; ends the command with exit code 2 when there is none."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        return yaml.safe_load(text)
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", BAD_USAGE)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fail(f"{file} is neither JSON nor YAML: {str(error).splitlines()[0]}", BAD_USAGE)


def print_receipt(receipt: dict[str, Any]) -> None:
    rows = [
        [one["role"], one["task_id"], status(one["status"]), one["deliberation_id"]] for one in receipt["deliberations"]
    ]
    table(f"Plan {receipt['plan_id']}", ["role", "task", "status", "deliberation"], rows)
    for note in receipt.get("notes", ()):
        click.echo(f"note: {note}")
