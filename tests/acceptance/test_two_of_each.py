"""Two APIs, two listeners and several workers on one ValKey behave as one."""

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import nats
import pytest

from fleet.stack.ports import free_port
from tests.acceptance.conftest import RunningFleet, start_fleet
from tests.harness import Process, wait_until

ROOT = Path(__file__).parents[2]
WORKERS = 5  # `fleet up` has three
NewPlan = Callable[..., dict[str, Any]]


@dataclass
class Pair:
    """A fleet, and a second API, listener and two workers beside it."""

    fleet: RunningFleet
    second_url: str
    second_listener: Process

    @property
    def apis(self) -> list[httpx2.Client]:
        key = self.fleet.details["api_key"]
        headers = {"Authorization": f"Bearer {key}"}
        second = httpx2.Client(base_url=self.second_url, headers=headers, timeout=70)
        return [self.fleet.http, second]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    fleet = start_fleet(tmp_path_factory.mktemp("fleet"))
    folder, port = tmp_path_factory.mktemp("second"), free_port()
    details = fleet.details
    settings = {
        f"FLEET_{name.upper()}": details[name] for name in ("valkey_url", "nats_url", "neo4j_uri", "neo4j_user")
    }
    settings |= {"FLEET_NEO4J_PASSWORD": details["neo4j_password"], "FLEET_ENGINE": "scripted"}
    api = {"FLEET_API_KEY": details["api_key"], "FLEET_API_BIND": f"127.0.0.1:{port}", "WEB_CONCURRENCY": "1"}
    python = [sys.executable, "-m"]
    worker = [*python, "celery", "-A", "fleet", "worker", "-P", "threads", "-c", "4"]
    with contextlib.ExitStack() as stack:
        stack.callback(fleet.process.stop, 60)

        def start(name: str, command: list[str], **more: str) -> Process:
            process = Process(command, folder / f"{name}.log", env={**settings, **more}, cwd=ROOT)
            process.start()
            stack.callback(process.stop)
            return process

        start("api", [*python, "gunicorn", "-c", "gunicorn.conf.py", "fleet.api:create_app()"], **api)
        listener = start("listener", [*python, "fleet.cli", "listener"])
        start("agents", [*worker, "-Q", "agents", "-n", "agents2@here"])
        start("council", [*worker, "-Q", "council", "-n", "council2@here"])
        found = Pair(fleet, f"http://127.0.0.1:{port}", listener)
        wait_until(lambda: _complete(found.apis[1]), 60, "the second of each runs")
        yield found


def _complete(api: httpx2.Client) -> bool:
    try:
        return api.get("/readyz").status_code == 200 and len(api.get("/v1/cluster").json()["workers"]) == WORKERS
    except httpx2.TransportError:
        return False


def events(api: httpx2.Client, after: str = "0") -> list[tuple[str, str]]:
    """Id and subject of everything in the log after `after`, as this API streams it."""
    text = api.get("/v1/events", params={"follow": "false"}, headers={"Last-Event-ID": after}).text
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]
    return [(block["id"], block["event"]) for block in blocks if {"id", "event"} <= block.keys()]


def completed_on_nats(fleet: RunningFleet) -> Counter[str]:
    """How often the stream has each deliberation's final event."""

    async def run() -> Counter[str]:
        connection = await nats.connect(fleet.details["nats_url"])
        jetstream, seen = connection.jetstream(), Counter[str]()
        subject = "orchestration.deliberation.completed"
        info = await jetstream.stream_info("ORCHESTRATOR_EVENTS", subjects_filter=subject)
        subscription = await jetstream.subscribe(subject, ordered_consumer=True)
        for _ in range((info.state.subjects or {}).get(subject, 0)):
            seen[json.loads((await subscription.next_msg(timeout=5)).data)["deliberation_id"]] += 1
        await connection.close()
        return seen

    return asyncio.run(run())


def publish(fleet: RunningFleet, plan: dict[str, Any]) -> None:
    async def run() -> None:
        connection = await nats.connect(fleet.details["nats_url"])
        event = {**plan, "timestamp": "2026-01-01T00:00:00Z"}
        await connection.jetstream().publish("planning.plan.approved", json.dumps(event).encode())
        await connection.close()

    asyncio.run(run())


def test_a_plan_handed_in_everywhere_at_once_is_one_plan(pair: Pair, new_plan: NewPlan) -> None:
    plan = new_plan(roles=["DEV", "QA"])
    with ThreadPoolExecutor(9) as pool:
        posts = [pool.submit(api.post, "/v1/plans", json=plan) for api in pair.apis * 4]
        pool.submit(publish, pair.fleet, plan).result()
        answers = [post.result() for post in posts]
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert len({answer.text for answer in answers}) == 1
    ids = [one["deliberation_id"] for one in answers[0].json()["deliberations"]]
    assert [pair.fleet.final(id)["status"] for id in ids] == ["COMPLETED", "COMPLETED"]
    wait_until(lambda: {*ids} <= {*completed_on_nats(pair.fleet)}, what="NATS has the events")
    assert set(completed_on_nats(pair.fleet).values()) == {1}


def test_what_one_api_changes_the_other_shows(pair: Pair) -> None:
    first, second = pair.apis
    wait_until(lambda: first.get("/v1/councils/DATA").status_code == 200, what="a council worker has made the councils")
    assert first.delete("/v1/councils/DATA").status_code == 204
    assert second.get("/v1/councils/DATA").status_code == 404
    made = second.post("/v1/councils", json={"role": "DATA", "num_agents": 2})
    assert made.status_code == 201
    assert first.get("/v1/councils/DATA").json()["num_agents"] == 2
    key = first.post("/v1/keys", json={"name": "reader", "scopes": ["read"]}).json()
    headers = {"Authorization": f"Bearer {key['key']}"}
    assert second.get("/v1/plans", headers=headers).status_code == 200
    assert second.delete(f"/v1/keys/{key['key_id']}").status_code == 204
    assert first.get("/v1/plans", headers=headers).status_code == 401


def test_a_key_of_a_request_counts_at_both_apis(pair: Pair) -> None:
    headers = {"Idempotency-Key": "two-of-each"}
    body = {"task_description": "Write it", "role": "DEV", "rounds": 0}
    answers = [api.post("/v1/deliberations", json=body, headers=headers) for api in pair.apis]
    assert answers[0].text == answers[1].text
    assert pair.fleet.final(answers[0].json()["deliberation_id"])["status"] == "COMPLETED"


def test_a_reader_that_changes_the_api_and_outlives_a_listener_misses_and_repeats_nothing(
    pair: Pair, new_plan: NewPlan
) -> None:
    first, second = pair.apis
    before = events(first)
    pair.second_listener.kill()
    ids = pair.fleet.submit(new_plan(roles=["DEV"]))
    assert pair.fleet.final(ids[0])["status"] == "COMPLETED"
    pair.second_listener.start()
    more = pair.fleet.submit(new_plan(roles=["QA"]))
    assert pair.fleet.final(more[0])["status"] == "COMPLETED"
    wait_until(lambda: events(first) == events(second), what="nothing happens any more")
    assert events(second, after=before[-1][0]) == events(first)[len(before) :]
    wait_until(lambda: {*ids, *more} <= {*completed_on_nats(pair.fleet)}, what="NATS has the events")
    assert set(completed_on_nats(pair.fleet).values()) == {1}


def test_every_worker_takes_its_share(pair: Pair, new_plan: NewPlan) -> None:
    ids = [id for _ in range(20) for id in pair.fleet.submit(new_plan(roles=["DEV"]))]
    assert {pair.fleet.final(id, 120)["status"] for id in ids} == {"COMPLETED"}

    def done() -> dict[str, int]:
        workers = pair.apis[1].get("/v1/cluster").json()["workers"]
        return {one["worker"]: one["completed"] for one in workers}

    wait_until(lambda: len(done()) == WORKERS and all(done().values()), what="each worker has done something")
