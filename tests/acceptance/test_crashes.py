"""SIGSTOP of a worker and of each server with work in flight. kill -9 and everything else at once: tests/chaos."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tests.acceptance.conftest import RunningFleet, start_fleet
from tests.acceptance.test_plan_to_decision import events, query
from tests.harness import wait_until

NewPlan = Callable[..., dict[str, Any]]
LOAD = 12  # deliberations in flight, 12 parts each


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    made = start_fleet(tmp_path_factory.mktemp("fleet"), FLEET_SCRIPTED_LATENCY_S="0.3")
    yield made
    made.process.stop(60)


def in_flight(fleet: RunningFleet, new_plan: NewPlan) -> list[str]:
    """Hands in the load and waits until some of it runs."""
    ids = [id for _ in range(LOAD) for id in fleet.submit(new_plan())]
    wait_until(
        lambda: fleet.http.get(f"/v1/deliberations/{ids[0]}").json()["status"] != "PENDING", what="work in flight"
    )
    return ids


def assert_each_completed_once(fleet: RunningFleet, ids: list[str]) -> None:
    """One final state in ValKey, one decision with three proposals in Neo4j, one completed event on NATS."""
    assert Counter(fleet.final(id, 120)["status"] for id in ids) == {"COMPLETED": len(ids)}
    rows = query(
        fleet,
        "MATCH (d:Deliberation)-[:DECIDED]->(x:Decision) WHERE d.id IN $ids "
        "RETURN d.id AS id, count(x) AS decisions, count { (d)-[:RECEIVED]->(:Proposal) } AS proposals",
        ids=ids,
    )
    assert sorted(row["id"] for row in rows) == sorted(ids)
    assert {(row["decisions"], row["proposals"]) for row in rows} == {(1, 3)}

    def completed() -> Counter[str] | None:
        found = Counter(id for id in ids for event in events(fleet, "ORCHESTRATOR_EVENTS", id)
                        if event["subject"] == "orchestration.deliberation.completed")  # fmt: skip
        return found if len(found) == len(ids) else None

    published = wait_until(completed, 60, "each completed event is on NATS")
    assert published is not None
    assert set(published.values()) == {1}


def test_a_worker_that_is_stopped_lets_go_and_does_no_harm_when_it_wakes(
    fleet: RunningFleet, new_plan: NewPlan
) -> None:
    ids = in_flight(fleet, new_plan)
    pid = fleet.details["pids"]["worker-council-1"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert_each_completed_once(fleet, ids)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert_each_completed_once(fleet, ids + in_flight(fleet, new_plan))


def test_while_neo4j_is_away_deliberations_wait_and_then_complete(fleet: RunningFleet, new_plan: NewPlan) -> None:
    pid = fleet.details["pids"]["neo4j"]
    os.kill(pid, signal.SIGSTOP)
    try:
        ids = in_flight(fleet, new_plan)
        wait_until(
            lambda: {fleet.http.get(f"/v1/deliberations/{id}").json().get("step") for id in ids} == {"record"},
            60,
            "all wait for the graph",
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert_each_completed_once(fleet, ids)


def test_while_nats_is_away_the_api_works_and_the_relay_catches_up(fleet: RunningFleet, new_plan: NewPlan) -> None:
    pid = fleet.details["pids"]["nats"]
    os.kill(pid, signal.SIGSTOP)
    try:
        ids = in_flight(fleet, new_plan)
        assert Counter(fleet.final(id)["status"] for id in ids) == {"COMPLETED": len(ids)}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert_each_completed_once(fleet, ids)


def test_while_valkey_is_away_nothing_is_accepted_and_later_everything_is(
    fleet: RunningFleet, new_plan: NewPlan
) -> None:
    ids = in_flight(fleet, new_plan)
    pid = fleet.details["pids"]["valkey"]
    plan = new_plan()
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = fleet.http.post("/v1/plans", json=plan)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
    finally:
        os.kill(pid, signal.SIGCONT)

    def accepted() -> list[str] | None:
        try:
            answer = fleet.http.post("/v1/plans", json=plan)
        except httpx2.TransportError:
            return None
        return [one["deliberation_id"] for one in answer.json()["deliberations"]] if answer.is_success else None

    assert_each_completed_once(fleet, ids + (wait_until(accepted, 60, "the plan is accepted") or []))
