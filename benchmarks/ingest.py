"""Plans accepted per second, by NATS events and by HTTP: `python -m benchmarks.ingest`.

A plan has one role and is accepted when it is stored with its deliberation, whose parts are with the broker: no worker
runs, so nothing is worked on. By NATS the time runs from the first publication of a batch until JetStream has the
listener's acknowledgement of all; by HTTP until the last 202. Rounds of the ways alternate; figures are their medians.
"""

import asyncio
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import nats
from nats.js import JetStreamContext

from benchmarks import _report
from benchmarks._fleet import Client, started
from fleet.events import PLAN_APPROVED
from fleet.models import PlanRequest, Role
from fleet.stack.processes import Fleet
from fleet.store import Store
from tests.harness import wait_until

STREAM, DURABLE = "PLANNING_EVENTS", "orch-planning-plan-approved"
ROUNDS = 5
AT_ONCE = 100  # publications that wait for JetStream's answer


def plan() -> PlanRequest:
    id = uuid.uuid4().hex
    about: dict[str, Any] = {"title": "Reset a password", "roles": (Role.DEV,), "timestamp": datetime.now(UTC)}
    return PlanRequest(plan_id=f"plan-{id}", story_id=f"story-{id}", **about)


def by_nats(fleet: Fleet, count: int) -> float:
    return asyncio.run(_by_nats(fleet.nats.url, [plan().dump().encode() for _ in range(count)]))


async def _by_nats(url: str, payloads: list[bytes]) -> float:
    client = await nats.connect(url)
    js = client.jetstream()
    began = time.perf_counter()
    for first in range(0, len(payloads), AT_ONCE):
        await asyncio.gather(*(js.publish(PLAN_APPROVED, payload) for payload in payloads[first : first + AT_ONCE]))
    while await _waiting(js):
        await asyncio.sleep(0.01)
    seconds = time.perf_counter() - began
    await client.close()
    return len(payloads) / seconds


async def _waiting(js: JetStreamContext) -> int:
    info = await js.consumer_info(STREAM, DURABLE)
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


def by_http(fleet: Fleet, clients: int, count: int) -> float:
    bodies = [
        [plan().model_dump(mode="json", exclude_none=True) for _ in range(count // clients)] for _ in range(clients)
    ]
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(partial(_post, fleet), bodies))
    return sum(map(len, bodies)) / (time.perf_counter() - began)


def _post(fleet: Fleet, bodies: list[dict[str, Any]]) -> None:
    with Client(fleet) as client:
        for body in bodies:
            client.post("/v1/plans", body)


# way → aim per second, plans in a round, how
WAYS: dict[str, tuple[float, int, Callable[[Fleet, int], float]]] = {
    "nats": (300, 1000, by_nats),
    "http, 1 client": (100, 200, lambda fleet, count: by_http(fleet, 1, count)),
    "http, 8 clients": (100, 400, lambda fleet, count: by_http(fleet, 8, count)),
}


def measure(folder: Path) -> list[dict[str, Any]]:
    fleet = Fleet(folder, "scripted", None)
    fleet.api.path = "/livez"  # there is no Neo4j, and nothing here needs it
    rates: dict[str, list[float]] = defaultdict(list)
    with started(fleet, [fleet.valkey, fleet.nats], [fleet.listener, fleet.api]):
        wait_until(lambda: consumes(fleet), what="the listener consumes")
        for turn in range(ROUNDS + 1):
            for name in list(WAYS) if turn % 2 else list(WAYS)[::-1]:
                _, count, way = WAYS[name]
                rates[name].append(way(fleet, count))
        _check(fleet)
    return [_row(name, rates[name][1:]) for name in WAYS]  # the first round opens connections and loads scripts


def consumes(fleet: Fleet) -> bool:
    with fleet.valkey.client() as client:
        return any(listener.consumers.get(DURABLE) == "ok" for listener in Store(client).listeners.list())


def _check(fleet: Fleet) -> None:
    """Raises: AssertionError unless all plans were stored, each with the three parts of its deliberation."""
    accepted = (ROUNDS + 1) * sum(count for _, count, _ in WAYS.values())
    with fleet.valkey.client() as client:
        waiting = Store(client).statistics.ready(["agents"])["agents"]
        counts = client.zcard("fleet:plans"), client.zcard("fleet:deliberations"), waiting
    assert counts == (accepted, accepted, 3 * accepted), counts


def _row(way: str, rates: list[float]) -> dict[str, Any]:
    aim, count, _ = WAYS[way]
    per_s = round(median(rates), 1)
    row = {"way": way, "plans": count, "per_s": per_s, "lowest": round(min(rates), 1), "highest": round(max(rates), 1)}
    return {**row, "aim_per_s": aim, "aim_ratio": round(per_s / aim, 2), "aim_met": per_s >= aim}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    print(_report.table(rows))
    print("written to", _report.write("ingest", rows, rounds=ROUNDS))


if __name__ == "__main__":
    main()
