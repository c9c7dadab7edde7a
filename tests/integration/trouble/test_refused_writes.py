"""ValKey takes no writes: nothing is accepted, what was accepted waits, and goes on when it takes them again."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import nats
import pytest

from tests.harness import wait_until
from tests.integration.trouble.bench import Bench, new_plan
from tests.integration.trouble.refusing import REASONS, RefusingValkey


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> RefusingValkey:
    return RefusingValkey(tmp_path_factory.mktemp("valkey"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, valkey: RefusingValkey) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("disk"), valkey, FLEET_SCRIPTED_LATENCY_S="1", FLEET_LOG_FORMAT="json")
    try:
        bench.start()
        yield bench
    finally:
        bench.stop()


def approve(bench: Bench, plan: dict[str, Any]) -> None:
    async def run() -> None:
        connection = await nats.connect(bench.fleet.nats.url)
        event = json.dumps({**plan, "timestamp": datetime.now(UTC).isoformat()}).encode()
        await connection.jetstream().publish("planning.plan.approved", event)
        await connection.close()

    asyncio.run(run())


def pending_acks(bench: Bench) -> int:
    """Events that the listener has fetched or has yet to fetch."""

    async def run() -> int:
        connection = await nats.connect(bench.fleet.nats.url)
        info = await connection.jetstream().consumer_info("PLANNING_EVENTS", "orch-planning-plan-approved")
        await connection.close()
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    return asyncio.run(run())


def said(bench: Bench, name: str, text: str) -> int:
    return bench.process(name).output().count(text)


@pytest.mark.parametrize("reason", REASONS)
def test_refused_writes_stop_everything_and_lose_nothing(bench: Bench, valkey: RefusingValkey, reason: str) -> None:
    pids = {process.name: process.pid for process in (*bench.servers, *bench.processes)}
    complaints = [("listener", "server_away"), ("worker-agents", '"valkey.away"')]
    before = {complaint: said(bench, *complaint) for complaint in complaints}
    running = [id for _ in range(4) for id in bench.submit(new_plan())]
    wait_until(
        lambda: any(one["status"] == "IN_PROGRESS" for one in bench.http.get("/v1/deliberations").json()["items"]),
        what="agents are at work",
    )
    by_http, by_nats = new_plan(), new_plan()
    valkey.refuse(reason)

    answer = bench.http.post("/v1/plans", json=by_http)
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "application/problem+json")
    assert int(answer.headers["Retry-After"]) > 0
    assert bench.http.post("/v1/deliberations", json={"task_description": "x", "role": "QA"}).status_code == 503
    approve(bench, by_nats)
    for complaint in complaints:
        wait_until(lambda complaint=complaint: said(bench, *complaint) > before[complaint], what=f"{complaint}")
    assert pending_acks(bench) == 1
    with bench.store().client as client:
        assert client.zmscore("fleet:plans", [by_http["plan_id"], by_nats["plan_id"]]) == [None, None]

    valkey.accept(reason)
    for found in bench.final(running, 120):
        assert (found["status"], found["current_count"]) == ("COMPLETED", 3), found
    wait_until(lambda: pending_acks(bench) == 0, 60, "the listener acknowledged the event")
    bench.submit(by_http)
    for plan in (by_nats, by_http):
        ids = [one["deliberation_id"] for one in bench.http.get(f"/v1/plans/{plan['plan_id']}").json()["deliberations"]]
        assert [found["status"] for found in bench.final(ids, 120)] == ["COMPLETED"]
    assert bench.http.get("/v1/deadletters").json()["items"] == []
    assert {process.name: process.pid for process in (*bench.servers, *bench.processes) if process.alive} == pids
    wait_until(lambda: bench.http.get("/readyz").status_code == 200, what="everything is up")


def test_acceptance_stops_before_memory_is_full_and_what_was_accepted_ends(
    bench: Bench, valkey: RefusingValkey
) -> None:
    texts = [{"subtask_id": f"s{number}", "title": "A part", "description": "x" * 20_000} for number in range(20)]
    large = {"subtasks": texts, "rounds": 0, "num_agents": 1}
    away = said(bench, "worker-agents", '"valkey.away"')
    with valkey.client() as client:
        client.setrange("ballast", 128_000_000, "x")  # the last 10 % are 14 MB
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.9 + 3_000_000))
    accepted: list[str] = []
    while (answer := bench.http.post("/v1/plans", json=new_plan(**large))).status_code == 202:
        accepted += [one["deliberation_id"] for one in answer.json()["deliberations"]]
    assert (answer.status_code, answer.json()["type"]) == (503, "/docs#problem-not-kept")
    with valkey.client() as client:
        client.setrange("more ballast", 6_000_000, "x")  # what is freed now is less than that
    by_nats = new_plan(**large)
    approve(bench, by_nats)
    wait_until(lambda: said(bench, "listener", "events_wait"), what="the listener waits")
    assert [found["status"] for found in bench.final(accepted, 120)] == ["COMPLETED"] * len(accepted)
    assert accepted
    assert pending_acks(bench) == 1
    assert said(bench, "worker-agents", '"valkey.away"') == away

    valkey.accept("memory")
    with valkey.client() as client:
        client.delete("ballast", "more ballast")
    wait_until(lambda: pending_acks(bench) == 0, 60, "the listener acknowledged the event")
    assert bench.http.get(f"/v1/plans/{by_nats['plan_id']}").status_code == 200
    assert bench.http.get("/v1/deadletters").json()["items"] == []
