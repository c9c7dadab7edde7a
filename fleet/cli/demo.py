"""`fleet demo`: a plan approved by a NATS event, decided by councils of a real model, read back from Neo4j."""

import asyncio
import json
import re
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import nats
import neo4j
import yaml
from nats.aio.msg import Msg

from fleet.cli.client import FAILED, Address, Client, fail
from fleet.cli.deliberation import FINAL, event_line
from fleet.cli.output import console, print_deliberation, table
from fleet.events import PLAN_APPROVED
from fleet.stack.errors import StackError
from fleet.stack.one_machine import embedded

EXAMPLE = Path(__file__).parents[2] / "examples" / "password-reset.yaml"
QUIET_S = 3.0  # the last events follow the last final state within this time

CYPHER = """
MATCH (:Story)-[:HAS_PLAN]->(:Plan {id: $plan_id})-[:DELIBERATED]->(d:Deliberation)
MATCH (decision:Decision)<-[:DECIDED]-(d)-[r:RECEIVED]->(p:Proposal)<-[:WROTE]-(a:Agent)
RETURN d.role AS role, decision.status AS status,
       a.id AS agent, r.rank AS rank, round(r.score, 2) AS score, EXISTS { (d)-[:CHOSE]->(p) } AS chosen
ORDER BY role, rank
"""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True), default=EXAMPLE)
@click.option("--engine", type=click.Choice(["local", "scripted"]), default="local", show_default=True)
@click.option("--timeout", "timeout_s", default=900, show_default=True, help="Seconds until the demo gives up.")
def demo(file: Path, engine: str, timeout_s: int) -> None:
    """Start a fleet, run the plan of FILE through it, show the result, stop everything.

    Exit code 0 only if every deliberation is COMPLETED.
    """
    began = time.monotonic()
    plan = yaml.safe_load(file.read_text())
    folder = Path(tempfile.mkdtemp(prefix="fleet-demo-"))
    try:
        with embedded(folder, engine, on_progress=console.print) as details:
            address = Address(details["api_url"], details["api_key"], details)
            console.rule("The plan is approved by a NATS event")
            found, events = asyncio.run(asyncio.wait_for(_run(plan, address), timeout_s))
            _show(plan["plan_id"], address, found, events)
    except TimeoutError:
        fail(f"not done after {timeout_s} s; the logs are in {folder}/logs")
    except StackError as error:
        fail(f"{error}; the logs are in {folder}/logs")
    if not all(one["status"] == "COMPLETED" for one in found):
        fail(f"not every deliberation is COMPLETED; the logs are in {folder}/logs", FAILED)
    shutil.rmtree(folder, ignore_errors=True)
    console.print(f"\nEvery deliberation COMPLETED, in {time.monotonic() - began:.0f} s with start and stop.")


async def _run(plan: dict[str, Any], address: Address) -> tuple[list[dict[str, Any]], list[Msg]]:
    """Publishes the plan's event and follows what the fleet says on NATS until every deliberation is final."""
    connection = await nats.connect(address.details["nats_url"])
    jetstream = connection.jetstream()
    events: list[Msg] = []

    async def on_event(message: Msg) -> None:
        events.append(message)
        if message.subject.startswith(("orchestration.", "context.")):
            console.print(event_line(message.subject, json.loads(message.data)), markup=False, soft_wrap=True)

    for subject in ("orchestration.>", "agent.results.>", "context.>", "deadletter.>"):
        await jetstream.subscribe(subject, cb=on_event, ordered_consumer=True)
    event = {**plan, "timestamp": datetime.now(UTC).isoformat()}
    await jetstream.publish(PLAN_APPROVED, json.dumps(event).encode())
    found = await _final(Client(address), plan["plan_id"])
    count = -1
    while count != len(events):
        count = len(events)
        await asyncio.sleep(QUIET_S)
    await connection.close()
    return found, events


async def _final(client: Client, plan_id: str) -> list[dict[str, Any]]:
    """The plan's deliberations, once the listener has taken the event and all of them are final."""
    while True:
        plans = await asyncio.to_thread(client.get, "/v1/plans")
        if any(one["plan_id"] == plan_id for one in plans["items"]):
            plan = await asyncio.to_thread(client.get, f"/v1/plans/{plan_id}")
            if all(one["status"] in FINAL for one in plan["deliberations"]):
                path = "/v1/deliberations/{deliberation_id}"
                return [client.get(path.format(**one)) for one in plan["deliberations"]]
        await asyncio.sleep(0.5)


def _show(plan_id: str, address: Address, found: list[dict[str, Any]], events: list[Msg]) -> None:
    console.rule("Proposals, ranking, winner")
    for one in found:
        print_deliberation(one)
    console.rule("Events on NATS")
    subjects = [re.sub(r"^agent\.results\..*", "agent.results.{deliberation_id}", event.subject) for event in events]
    counts = {subject: subjects.count(subject) for subject in sorted(set(subjects))}
    table("Published by the listener", ["subject", "events"], [[name, count] for name, count in counts.items()])
    console.rule("The same, read from Neo4j")
    console.print(CYPHER.strip(), markup=False, soft_wrap=True)
    details = address.details
    login = (details["neo4j_user"], details["neo4j_password"])
    with neo4j.GraphDatabase.driver(details["neo4j_uri"], auth=login, notifications_min_severity="OFF") as driver:
        records, _, keys = driver.execute_query(CYPHER, plan_id=plan_id)
    table("Neo4j", list(keys), [[record[key] for key in keys] for record in records])
