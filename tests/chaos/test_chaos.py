"""A short run of what `make chaos` does at length; a failure is tried again by its seed."""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import nats
import neo4j
import pytest

from fleet.store.base import DUE, connect, deliberation_key
from tests.chaos.__main__ import summary
from tests.chaos.run import Plan, Result, Run
from tests.harness import wait_until

SEED = int(os.environ.get("CHAOS_SEED", "1"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with Run(tmp_path_factory.mktemp("chaos"), Plan(SEED, wanted=200, rate=2.5, most=500, gap_s=1.2)) as run:
        yield run


@pytest.fixture(scope="module")
def result(run: Run) -> Result:
    found = run.result()
    print(summary(found))
    return found


@pytest.mark.timeout(900)
def test_nothing_is_lost_doubled_or_late_whatever_dies_stops_or_misbehaves(result: Result) -> None:
    assert not result.findings.found, summary(result)
    assert result.deliberations >= 200
    assert min(row["count"] for row in result.rows()) >= 3
    assert min(fault.in_flight for fault in result.faults) > 0


def test_the_audit_finds_what_is_lost_doubled_or_left_over(run: Run, result: Result) -> None:
    before = {kind: result.findings.count(kind) for kind in ("lost", "doubled", "left over")}
    undecided, ended_twice, unknown = run.ids[:3]
    details = run.details
    _forget_decision(details, undecided)
    _end_again(details, ended_twice)
    with connect(details["valkey_url"]) as client:
        client.delete(deliberation_key(unknown))
        client.zadd(DUE, {unknown: 1e15})
    findings = wait_until(lambda: _with_doubled(run, before["doubled"]), what="the second end is seen")
    assert findings is not None
    assert findings["lost"] == before["lost"] + 2
    assert findings["left over"] == before["left over"] + 1


def _forget_decision(details: dict[str, Any], id: str) -> None:
    auth = (details["neo4j_user"], details["neo4j_password"])
    with neo4j.GraphDatabase.driver(details["neo4j_uri"], auth=auth) as driver:
        driver.execute_query("MATCH (:Deliberation {id: $id})-[:DECIDED]->(x) DETACH DELETE x", id=id)


def _end_again(details: dict[str, Any], id: str) -> None:
    async def publish() -> None:
        client = await nats.connect(details["nats_url"])
        event = json.dumps({"deliberation_id": id, "status": "COMPLETED"}).encode()
        headers = {"Fleet-Event-Id": "99999999999999-0"}
        await client.jetstream().publish("orchestration.deliberation.completed", event, headers=headers)
        await client.close()

    asyncio.run(publish())


def _with_doubled(run: Run, before: int) -> dict[str, int] | None:
    findings = run.findings()
    counts = {kind: findings.count(kind) for kind in ("lost", "doubled", "left over")}
    return counts if counts["doubled"] > before else None
