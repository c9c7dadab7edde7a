"""`fleet deliberation`: look at one, watch one."""

import sys
from typing import Any

import click

from fleet.cli.client import FAILED, Client
from fleet.cli.output import console, json_option, print_deliberation, print_json

FINAL = ("COMPLETED", "PARTIAL", "FAILED", "CANCELLED")


@click.group()
def deliberation() -> None:
    """Deliberations and their decisions."""


@deliberation.command()
@click.argument("deliberation_id")
@json_option
def show(deliberation_id: str, as_json: bool) -> None:
    """Show a deliberation: the ranked proposals, the winner and why, what failed."""
    found = Client().get(f"/v1/deliberations/{deliberation_id}")
    print_json(found) if as_json else print_deliberation(found)


@deliberation.command()
@click.argument("deliberation_id")
@json_option
def watch(deliberation_id: str, as_json: bool) -> None:
    """Show what happens in a deliberation as it happens, then its result; exit code 1 if it failed."""
    found = wait_for(Client(), deliberation_id, quiet=as_json)
    print_json(found) if as_json else print_deliberation(found)
    if found["status"] in ("FAILED", "CANCELLED"):
        sys.exit(FAILED)


def wait_for(client: Client, id: str, *, quiet: bool) -> dict[str, Any]:
    """Waits until the deliberation is final, and prints its events meanwhile unless `quiet`."""
    path = f"/v1/deliberations/{id}"
    found: dict[str, Any] = client.get(path)
    if not quiet and found["status"] not in FINAL:
        for subject, payload in client.events(f"{path}/events"):
            console.print(event_line(subject, payload), markup=False, soft_wrap=True)
            if subject.startswith("orchestration.deliberation.") and payload["status"] in FINAL:
                break
    while found["status"] not in FINAL:
        found = client.get(path, wait=30)
    return found


def event_line(subject: str, payload: dict[str, Any]) -> str:
    """One event as one line: when, who, what."""
    seconds = payload.get("duration_ms", 0) / 1000
    details = {
        "orchestration.task.dispatched": "is asked for a proposal",
        "orchestration.deliberation.started": "deliberation starts",
        "orchestration.deliberation.stepped": f"{payload.get('step')} begins",
        "orchestration.task.completed": f"{payload.get('step')} answered in {seconds:.1f} s",
        "orchestration.task.failed": f"{payload.get('step')} failed: {payload.get('error')}",
        "context.decision.added": f"{payload.get('decision_id')} is in the graph",
    }
    detail = details.get(subject) or f"{subject.split('.')[1]} {payload.get('status', '')}"
    return f"{payload.get('timestamp', '')[11:19]} {payload.get('agent_id') or payload.get('role', ''):<20} {detail}"
