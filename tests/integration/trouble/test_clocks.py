"""Machines whose clocks differ by ten minutes from ValKey's and by twenty from each other's."""

import json
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.harness import wait_until
from tests.integration.trouble.bench import Bench, new_plan, skew

FAST, SLOW = skew(600), skew(-600)
CLOCKS = {
    "api": SLOW,
    "listener": FAST,
    "worker-agents": FAST,
    "worker-council-1": SLOW,
    "worker-council-2": FAST,
}
TOLERANCE_S = 120.0  # far from the skew, and more than a machine that is busy with other tests takes


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("clocks"), FLEET_SCRIPTED_BEHAVIOURS="*-qa-002=silent")
    try:
        bench.start(CLOCKS)
        yield bench
    finally:
        bench.stop()


def test_the_clocks_of_these_processes_are_wrong(bench: Bench) -> None:
    """Else the tests below show nothing: an event's `timestamp` is what the clock of its process says."""
    [id] = bench.submit(new_plan())
    bench.final([id])
    own = bench.events(f"/v1/deliberations/{id}/events")
    by_api, by_worker = (
        next(datetime.fromisoformat(event["timestamp"]) for event in own if event["subject"] == subject)
        for subject in ("orchestration.task.dispatched", "orchestration.task.completed")
    )
    assert (by_worker - by_api).total_seconds() == pytest.approx(1200, abs=TOLERANCE_S)


def test_a_plan_completes_with_all_of_its_agents_and_times_of_one_clock(bench: Bench) -> None:
    before_ms = time.time() * 1000
    found = bench.final(bench.submit(new_plan(roles=["DEV", "DATA"])))
    for one in found:
        assert (one["status"], one["current_count"], one["failures"]) == ("COMPLETED", 3, [])
        assert before_ms - 1000 <= one["created_at_ms"] <= one["started_at_ms"] <= one["finished_at_ms"]
        assert one["finished_at_ms"] < before_ms + TOLERANCE_S * 1000
        assert 0 <= one["duration_ms"] <= one["finished_at_ms"] - one["started_at_ms"]


def test_a_deadline_is_neither_early_nor_late(bench: Bench) -> None:
    began = time.monotonic()
    [found] = bench.final(bench.submit(new_plan(roles=["QA"], constraints={"timeout_seconds": 4}, rounds=0)))
    assert (found["status"], found["current_count"]) == ("PARTIAL", 2)  # those that answered were waited for
    assert 3_500 <= found["duration_ms"] < TOLERANCE_S * 1000
    assert time.monotonic() - began < TOLERANCE_S


def test_work_longer_than_every_lease_runs_once(bench: Bench) -> None:
    """What a worker holds is a lease of 12 s; renewed by the wrong clock it would seem to have lapsed at once."""
    plan = new_plan(roles=["QA"], constraints={"timeout_seconds": 16}, rounds=0)
    [found] = bench.final(bench.submit(plan))
    assert found["status"] == "PARTIAL"
    with bench.store().client as client:
        attempts = client.hgetall(f"fleet:deliberation:{found['deliberation_id']}:attempts")
    runs = [json.loads(one) for one in attempts.values()]
    assert [run["deaths"] + len(run["running"]) for run in runs] == [1] * 3


def test_events_keep_their_order_and_the_stream_shows_all(bench: Bench) -> None:
    [id] = bench.submit(new_plan())
    bench.final([id])
    own = bench.events(f"/v1/deliberations/{id}/events")
    subjects = [event["subject"].removeprefix("orchestration.") for event in own]
    assert subjects[:3] == ["task.dispatched"] * 3
    assert subjects[3] == "deliberation.started"
    steps = [event["step"] for event in own if event["subject"].endswith("stepped")]
    assert steps == ["review:1", "revise:1", "vote:1", "record"]
    assert subjects.count("deliberation.completed") == 1
    ids = [event["id"] for event in own]
    assert [event["id"] for event in bench.events() if event["id"] in ids] == ids


def test_the_fleet_is_ready_and_knows_its_workers_and_jobs(bench: Bench) -> None:
    assert bench.http.get("/readyz").status_code == 200
    [id] = bench.submit(new_plan(roles=["QA"], constraints={"timeout_seconds": 8}, rounds=0))
    jobs = wait_until(
        lambda: [job for job in bench.http.get("/v1/jobs").json()["items"] if job.get("deliberation_id") == id],
        what="the job is shown",
    )
    assert all(0 <= job["runtime_s"] < TOLERANCE_S for job in jobs)
    assert bench.final([id])[0]["status"] == "PARTIAL"
    assert bench.http.get("/v1/stats").json()["per_minute"]["finished"]["last_10_minutes"] > 0
