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
from nats.aio.msg import Msg

from fleet.cli.client import FAILED, Address, Client, fail
from fleet.cli.documents import read_document
from fleet.cli.output import console, json_option, print_deliberation, print_json, table
from fleet.cli.progress import FINAL, event_line
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
@click.option(
    "--engine",
    type=click.Choice(["local", "scripted"]),
    default="local",
    show_default=True,
    help="What the agents think with: SmolLM2-135M, or texts without a model.",
)
@click.option("--timeout", "timeout_s", default=900, show_default=True, help="Seconds until the demo gives up.")
@json_option
def demo(file: Path, engine: str, timeout_s: int, as_json: bool) -> None:
    """Start a fleet, run a plan through it, show the result, stop everything.

    FILE has the plan, JSON or YAML; the example unless given. Exit code 0 only if every deliberation is COMPLETED.
    """
    console.stderr = as_json  # what happens meanwhile is then no part of the document
    began = time.monotonic()
    plan = read_document(file)
    folder = Path(tempfile.mkdtemp(prefix="fleet-demo-"))
    try:
        with embedded(folder, engine, on_progress=console.print) as details:
            address = Address(details["api_url"], details["api_key"], details)
            console.rule("The plan is approved by a NATS event")
            found, events = asyncio.run(asyncio.wait_for(_run(plan, address), timeout_s))
            rows = _from_neo4j(plan["plan_id"], details)
    except TimeoutError:
        fail(f"not done after {timeout_s} s; the logs are in {folder}/logs")
    except StackError as error:
        fail(f"{error}; the logs are in {folder}/logs")
    _show(found, events, rows)
    if as_json:
        print_json({"plan_id": plan["plan_id"], "deliberations": found, "events": events, "graph": rows})
    if not all(one["status"] == "COMPLETED" for one in found):
        fail(f"not every deliberation is COMPLETED; the logs are in {folder}/logs", FAILED)
    shutil.rmtree(folder, ignore_errors=True)
    console.print(f"\nEvery deliberation COMPLETED, in {time.monotonic() - began:.0f} s with start and stop.")


async def _run(plan: dict[str, Any], address: Address) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Publishes the plan's event and follows what the fleet says on NATS until every deliberation is final.

    Returns the deliberations, and how many events went out by subject.
    """
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
    subjects = sorted(re.sub(r"^agent\.results\..*", "agent.results.{deliberation_id}", one.subject) for one in events)
    return found, {subject: subjects.count(subject) for subject in subjects}


async def _final(client: Client, plan_id: str) -> list[dict[str, Any]]:
    """The plan's deliberations, once the listener has taken the event and all of them are final."""
    while True:
        plans = await asyncio.to_thread(client.get, "/v1/plans")
        if any(one["plan_id"] == plan_id for one in plans["items"]):
            plan = await asyncio.to_thread(client.get, f"/v1/plans/{plan_id}")
            if all(one["status"] in FINAL for one in plan["deliberations"]):
                path = "/v1/deliberations/{deliberation_id}"
                return [client.get(path.format(**one)) for one in plan["deliberations"]]
        for letter in (await asyncio.to_thread(client.get, "/v1/deadletters"))["items"]:
            fail(f"the plan became a dead letter: {letter['reason']}")
        await asyncio.sleep(0.5)


def _from_neo4j(plan_id: str, details: dict[str, Any]) -> list[dict[str, Any]]:
    login = (details["neo4j_user"], details["neo4j_password"])
    with neo4j.GraphDatabase.driver(details["neo4j_uri"], auth=login, notifications_min_severity="OFF") as driver:
        return [record.data() for record in driver.execute_query(CYPHER, plan_id=plan_id).records]


def _show(found: list[dict[str, Any]], events: dict[str, int], rows: list[dict[str, Any]]) -> None:
    console.rule("Proposals, ranking, winner")
    for one in found:
        print_deliberation(one)
    console.rule("Events on NATS")
    table("Published by the listener", ["subject", "events"], [[name, count] for name, count in events.items()])
    console.rule("The same, read from Neo4j")
    console.print(CYPHER.strip(), markup=False, soft_wrap=True)
    table("Neo4j", list(rows[0]) if rows else ["nothing"], [list(row.values()) for row in rows])
