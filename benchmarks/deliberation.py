"""A deliberation of three agents against Ray, in the same run: `python -m benchmarks.deliberation`.

Fleet's side is what `fleet up` runs with the scripted engine, without NATS and Flower: from POST /v1/deliberations
until it is COMPLETED, stored, with its events logged and its decision in Neo4j. Ray's sides do the same number of steps
that do nothing, and keep nothing: as tasks, and with an actor per agent (`benchmarks/ray_councils.py`).

Rounds of the three alternate. A round is some deliberations one after another (the time of one), then some with 50 in
flight (how many per second; fewer for actors, each of which is a process). Rates are medians over the rounds, the times
of one are over all rounds. The stages are means, from the times of the event log's entries.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

import neo4j

from benchmarks import _report
from benchmarks._fleet import FINISHED, Client, started
from fleet.engines.models import default_cache_dir
from fleet.events import DeliberationFinished, DeliberationStarted, DeliberationStepped, TaskCompleted, TaskDispatched
from fleet.stack.processes import Fleet
from fleet.store import RECORD, LoggedEvent, Store
from tests.harness import wait_until

RAY = "ray==2.60.0"
ROUNDS = 5
CLIENTS = 4
AIMS = {"p50_ms": 30.0, "ratio_tasks": 1.0, "ratio_actors": 20.0}


@dataclass(frozen=True)
class Side:
    """How many deliberations a round has, one after another and in flight, and how many are in flight."""

    name: str
    idle: int
    flight: int
    in_flight: int = 50


FLEET, TASKS, ACTORS = Side("fleet", 20, 150), Side("tasks", 20, 400), Side("actors", 2, 12, in_flight=6)


class FleetSide:
    """Deliberations through a running fleet's API."""

    def __init__(self, fleet: Fleet):
        self._fleet = fleet
        self.store = Store(fleet.valkey.client())
        self.submitted = 0
        self.timed: dict[str, tuple[float, float, float]] = {}  # id → sent, accepted, answered; Unix time in ms

    def idle(self, count: int, _: int) -> list[float]:
        with Client(self._fleet) as client:
            return [self._one(client) for _ in range(count)]

    def flight(self, count: int, in_flight: int) -> list[float]:
        began, before = time.perf_counter(), self.finished
        room = threading.Semaphore(in_flight)
        with ThreadPoolExecutor(CLIENTS) as pool:
            sending = [pool.submit(self._send, count // CLIENTS, room) for _ in range(CLIENTS)]
            seen = 0
            while seen < count // CLIENTS * CLIENTS:
                time.sleep(0.005)
                if found := self.finished - before - seen:
                    seen += found
                    room.release(found)
                if failed := [sent.exception() for sent in sending if sent.done() and sent.exception()]:
                    room.release(count)  # the others, which wait for room
                    raise RuntimeError("a deliberation was not accepted") from failed[0]
        return [seen / (time.perf_counter() - began)]

    @property
    def finished(self) -> int:
        found: Any = self.store.client.zcard(FINISHED)
        return int(found)

    def check(self) -> None:
        """Raises: AssertionError unless all that were sent are COMPLETED in the graph."""
        with neo4j.GraphDatabase.driver(self._fleet.neo4j.uri, auth=self._fleet.neo4j.auth) as driver:
            query = "MATCH (:Deliberation)-[:DECIDED]->(d:Decision {status: 'COMPLETED'}) RETURN count(d)"
            completed = driver.execute_query(query).records[0].value()
        assert completed == self.submitted, f"{completed} of {self.submitted} are COMPLETED"

    def _one(self, client: Client) -> float:
        began = time.time()
        id = self._post(client)
        accepted = time.time()
        found = client.get(f"/v1/deliberations/{id}?wait=60")
        assert found["status"] == "COMPLETED", found
        ended = time.time()
        self.timed[id] = (began * 1000, accepted * 1000, ended * 1000)
        return (ended - began) * 1000

    def _send(self, count: int, room: threading.Semaphore) -> None:
        with Client(self._fleet) as client:
            for _ in range(count):
                room.acquire()
                self._post(client)

    def _post(self, client: Client) -> str:
        self.submitted += 1
        about = {"task_description": "Nothing is to be done.", "role": "DEV", "story_id": f"story-{uuid.uuid4()}"}
        return str(client.post("/v1/deliberations", {**about, "rounds": 0, "num_agents": 3})["deliberation_id"])


class RaySide:
    """One way to do it with Ray; both share one Ray."""

    def __init__(self, process: "subprocess.Popen[str]", way: str):
        self._process, self._way = process, way

    def idle(self, count: int, in_flight: int) -> list[float]:
        return self._ask("idle", count, in_flight)

    def flight(self, count: int, in_flight: int) -> list[float]:
        return self._ask("flight", count, in_flight)

    def _ask(self, *request: object) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(self._way, *request, file=self._process.stdin, flush=True)
        answer: list[float] = json.loads(self._process.stdout.readline())
        return answer


def ray_python() -> Path:
    """The Python of a virtual environment with Ray, made by the first run on a machine."""
    folder = default_cache_dir() / "ray-venv"
    python = folder / "bin" / "python"
    if not (folder / RAY).exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", RAY], check=True)
        (folder / RAY).touch()
    return python


def start_ray(folder: Path) -> "subprocess.Popen[str]":
    script = Path(__file__).with_name("ray_councils.py")
    return subprocess.Popen(
        [str(ray_python()), str(script), str(folder)],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def alternate(sides: dict[Side, FleetSide | RaySide]) -> tuple[dict[Side, list[float]], dict[Side, list[float]]]:
    times: dict[Side, list[float]] = defaultdict(list)
    rates: dict[Side, list[float]] = defaultdict(list)
    for turn in range(ROUNDS):
        for side in list(sides) if turn % 2 else list(sides)[::-1]:
            times[side] += sides[side].idle(side.idle, side.in_flight)
            rates[side] += sides[side].flight(side.flight, side.in_flight)
    return times, rates


def rows_of(times: dict[Side, list[float]], rates: dict[Side, list[float]]) -> list[dict[str, Any]]:
    rows = []
    for side in (FLEET, TASKS, ACTORS):
        per_s = median(rates[side])
        row = {"side": side.name, "p50_ms": median(times[side]), "p95_ms": quantiles(times[side], n=20)[18]}
        row |= {"in_flight": side.in_flight, "per_s": per_s, "fleet_per_s_ratio": median(rates[FLEET]) / per_s}
        row |= {"fleet_p50_ratio": median(times[FLEET]) / median(times[side])}
        rows.append({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()})
    return rows


def stages(side: FleetSide) -> list[dict[str, Any]]:
    """Where the time of the deliberations went that ran one after another, each stage up to the next mark."""
    logged: dict[str, list[LoggedEvent]] = defaultdict(list)
    after = "0"
    while batch := side.store.events.read(after, 1000):
        after = batch[-1].id
        for event in batch:
            logged[event.deliberation_id or ""].append(event)
    marks = [_marks(logged[id], sent, answered) for id, (sent, _, answered) in side.timed.items()]
    names = list(marks[0])
    lengths = {
        f"{start} → {end}": mean(mark[end] - mark[start] for mark in marks) for start, end in itertools.pairwise(names)
    }
    whole = sum(lengths.values())
    return [{"stage": name, "ms": round(ms, 2), "share": round(ms / whole, 3)} for name, ms in lengths.items()]


def _marks(events: Sequence[LoggedEvent], sent: float, answered: float) -> dict[str, float]:
    """Unix times in ms."""

    def at(subject: str, step: str = "") -> float:
        return max(
            int(event.id.partition("-")[0])
            for event in events
            if event.subject == subject and json.loads(event.payload).get("step", "").startswith(step)
        )

    return {
        "sent": sent,
        "stored, parts opened": at(TaskDispatched.SUBJECT),
        "first agent starts": at(DeliberationStarted.SUBJECT),
        "all have proposed": at(TaskCompleted.SUBJECT, "propose"),
        "vote begins": at(DeliberationStepped.SUBJECT, "vote"),
        "all have voted": at(TaskCompleted.SUBJECT, "vote"),
        "decided": at(DeliberationStepped.SUBJECT, RECORD),
        "in the graph, COMPLETED": at(DeliberationFinished.SUBJECT),
        "client has the result": answered,
    }


def measure(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], float]:
    fleet = Fleet(folder / "fleet", "scripted", None)
    processes = [*fleet.workers, fleet.api]
    with started(fleet, [fleet.valkey, fleet.neo4j], processes, FLEET_NATS_ENABLED="false"), start_ray(folder) as ray:
        ours = FleetSide(fleet)
        sides: dict[Side, FleetSide | RaySide] = {
            FLEET: ours,
            TASKS: RaySide(ray, "tasks"),
            ACTORS: RaySide(ray, "actors"),
        }
        for side, runner in sides.items():  # the first ones open connections, load scripts and plan queries
            runner.flight(side.flight // 4, side.in_flight)
        times, rates = alternate(sides)
        ray.communicate(timeout=60)
        wait_until(lambda: ours.finished == ours.submitted, 60, "all deliberations are finished")
        ours.check()
        accepted = median(accepted - sent for sent, accepted, _ in ours.timed.values())
        return rows_of(times, rates), stages(ours), accepted


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows, parts, accepted_ms = measure(Path(folder))
    print(_report.table(rows))
    print()
    print(_report.table(parts))
    figures = {"p50_ms": rows[0]["p50_ms"]} | {f"ratio_{row['side']}": row["fleet_per_s_ratio"] for row in rows[1:]}
    for name, aim in AIMS.items():
        met = figures[name] <= aim if name == "p50_ms" else figures[name] >= aim
        print(f"{name} {figures[name]:g}, aim {aim:g}: {'met' if met else 'MISSED'}")
    more = {"agents": 3, "rounds": 0, "accepted_p50_ms": round(accepted_ms, 2), "stages": parts, "aims": AIMS}
    print("written to", _report.write("deliberation", rows, **more, **figures))


if __name__ == "__main__":
    main()
