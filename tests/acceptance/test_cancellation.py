"""Cancelling reaches what is queued, what runs and everybody who listens."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import nats
import neo4j
import pytest

from tests.acceptance.conftest import RunningFleet, start_fleet
from tests.harness import wait_until

SLOTS = 8  # of the agents' worker of `fleet up`


@pytest.fixture(scope="module")
def slow_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """Its DEV agents answer after ten minutes, the others at once."""
    fleet = start_fleet(
        tmp_path_factory.mktemp("fleet"),
        FLEET_SCRIPTED_BEHAVIOURS="agent-dev-*=silent",
        FLEET_REQUEST_TIMEOUT_S="600",
        FLEET_DELIBERATION_TIMEOUT_S="600",
    )
    yield fleet
    fleet.process.stop(60)


def ask(fleet: RunningFleet, role: str) -> str:
    answer = fleet.http.post("/v1/deliberations", json={"task_description": "Write it", "role": role, "rounds": 0})
    assert answer.status_code == 202, answer.text
    id: str = answer.json()["deliberation_id"]
    return id


def cancelled_on_nats(fleet: RunningFleet) -> list[str]:
    """The ids in the events that the stream has on this subject."""

    async def run() -> list[str]:
        connection = await nats.connect(fleet.details["nats_url"])
        jetstream, ids = connection.jetstream(), []
        subject = "orchestration.deliberation.cancelled"
        info = await jetstream.stream_info("ORCHESTRATOR_EVENTS", subjects_filter=subject)
        subscription = await jetstream.subscribe(subject, ordered_consumer=True)
        for _ in range((info.state.subjects or {}).get(subject, 0)):
            ids.append(json.loads((await subscription.next_msg(timeout=5)).data)["deliberation_id"])
        await connection.close()
        return ids

    return asyncio.run(run())


def in_graph(fleet: RunningFleet, id: str) -> list[Any]:
    details = fleet.details
    auth = (details["neo4j_user"], details["neo4j_password"])
    with neo4j.GraphDatabase.driver(details["neo4j_uri"], auth=auth) as driver:
        cypher = "MATCH (:Deliberation {id: $id})-[:DECIDED]->(d:Decision) RETURN d.status AS status"
        return [row["status"] for row in driver.execute_query(cypher, id=id).records]


def subjects(fleet: RunningFleet, id: str) -> list[str]:
    text = fleet.http.get(f"/v1/deliberations/{id}/events", params={"follow": "false"}).text
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


def status(fleet: RunningFleet, id: str) -> str:
    found: str = fleet.http.get(f"/v1/deliberations/{id}").json()["status"]
    return found


def test_cancelled_deliberations_free_their_workers_and_never_run_again(slow_fleet: RunningFleet) -> None:
    running = [ask(slow_fleet, "DEV") for _ in range(SLOTS)]  # three agents each: more than the worker has slots
    wait_until(lambda: status(slow_fleet, running[0]) == "IN_PROGRESS", what="the first one runs")
    behind = ask(slow_fleet, "QA")
    for id in reversed(running):
        assert slow_fleet.http.post(f"/v1/deliberations/{id}/cancel").json()["status"] == "CANCELLED"
    assert slow_fleet.final(behind)["status"] == "COMPLETED"
    for id in running:
        wait_until(lambda id=id: in_graph(slow_fleet, id) == ["CANCELLED"], what="the graph has it")
        found = subjects(slow_fleet, id)
        assert found[-1] == "orchestration.deliberation.cancelled"
        assert not [
            one for one in found if one.startswith(("orchestration.task.completed", "orchestration.task.failed"))
        ]
    wait_until(lambda: len(cancelled_on_nats(slow_fleet)) >= SLOTS, what="NATS has the events")
    assert sorted(cancelled_on_nats(slow_fleet)) == sorted(running)
    # The last in the queue were cancelled first, before a slot was free for them.
    assert "orchestration.deliberation.started" not in subjects(slow_fleet, running[-1])


def test_a_cancelled_deliberation_is_replayed(slow_fleet: RunningFleet) -> None:
    id = ask(slow_fleet, "DEV")
    slow_fleet.http.post(f"/v1/deliberations/{id}/cancel")
    answer = slow_fleet.http.post(f"/v1/deliberations/{id}/replay")
    assert (answer.status_code, answer.json()["replay_of"]) == (202, id)
    slow_fleet.http.post(f"/v1/deliberations/{answer.json()['deliberation_id']}/cancel")
