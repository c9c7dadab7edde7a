"""A whole fleet loses its engine with eight requests in it."""

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import neo4j
import psutil
import pytest

from tests.acceptance.conftest import RunningFleet
from tests.harness import wait_until

ENDS = ("orchestration.task.completed", "orchestration.task.failed")
pytestmark = pytest.mark.timeout(600)


def gpu_workers(fleet: RunningFleet) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = fleet.http.get("/v1/cluster").json()["workers"]
    return [one for one in workers if one.get("engine_state")]


def in_the_batch(fleet: RunningFleet) -> int:
    return sum(one["engine_state"].get("running") or 0 for one in gpu_workers(fleet))


def logged(fleet: RunningFleet, id: str) -> list[tuple[str, dict[str, Any]]]:
    """Subject and payload of each event of a deliberation."""
    answer = fleet.http.get(f"/v1/deliberations/{id}/events", params={"follow": "false"})
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in answer.text.split("\n\n") if block]
    return [(block["event"], json.loads(block["data"])) for block in blocks if "event" in block]


def decisions(fleet: RunningFleet, id: str) -> int:
    login = (fleet.details["neo4j_user"], fleet.details["neo4j_password"])
    with neo4j.GraphDatabase.driver(fleet.details["neo4j_uri"], auth=login) as driver:
        cypher = "MATCH (:Deliberation {id: $id})-[:DECIDED]->(d:Decision) RETURN count(d) AS count"
        return int(driver.execute_query(cypher, id=id).records[0]["count"])


def test_all_deliberations_end_once_although_the_engine_was_killed_with_eight_requests_in_it(
    vllm_fleet: RunningFleet, new_plan: Callable[..., dict[str, Any]]
) -> None:
    ids = [
        vllm_fleet.submit(new_plan(num_agents=4, rounds=0, constraints={"timeout_seconds": 400}))[0] for _ in range(2)
    ]
    wait_until(lambda: in_the_batch(vllm_fleet) == 8, 60, "eight requests in the batch")
    [worker] = gpu_workers(vllm_fleet)
    killed_at = time.time() * 1000
    for process in psutil.Process(worker["pid"]).children(recursive=True):
        if "EngineCore" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
    for id in ids:
        found = vllm_fleet.final(id, 400)
        assert found["status"] in ("COMPLETED", "PARTIAL"), found
        assert {one["failure"]["type"] for one in found["failures"]} <= {"truncated"}
        assert all(one["proposal"]["created_at_ms"] > killed_at for one in found["results"])
        ended = [
            (payload["step"], payload["agent_id"]) for subject, payload in logged(vllm_fleet, id) if subject in ENDS
        ]
        assert len(set(ended)) == len(ended)
        assert {("propose:0", agent) for agent in found["agents"]} <= set(ended)
        assert [subject for subject, _ in logged(vllm_fleet, id)].count("orchestration.deliberation.completed") == 1
        assert decisions(vllm_fleet, id) == 1
    [successor] = gpu_workers(vllm_fleet)
    assert successor["pid"] != worker["pid"]
