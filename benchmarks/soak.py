"""Many deliberations queued, worked off and forgotten: `python -m benchmarks.soak [N]`, or N in the environment.

N (100,000) deliberations of two agents and no rounds are queued while no worker runs. Then a fleet as `fleet up` starts
it, with scripted agents that answer at once, works them off, and forgets them `RETENTION_S` after their end.

* rows: each tenth of the deliberations, in the order of their ends: wall time and processor time of all processes per
  deliberation, as measured and as ratio to the first tenth; flat is 1
* bytes_queued: what ValKey's used memory grew by per queued deliberation; families: how many keys of each kind there
  are, and what they take, estimated from some of each
* left: what remains in ValKey when all are forgotten; bytes_left is without the event log, which has a fixed length,
  what expires within a day (families that are not `lasting`), and what was there after `WARM_UP` others
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks import _report
from benchmarks._fleet import FINISHED, started
from fleet.models import DeliberationRequest, Role
from fleet.stack.process import Process
from fleet.stack.processes import Fleet
from fleet.store import Store
from fleet.store.base import EVENTS
from tests.harness import wait_until

COUNT = 100_000
WARM_UP = 50
SLICES = 10
RETENTION_S = 20
SAMPLE = 50  # keys of a family whose size is measured
FORGOTTEN_WITHIN_S = 300.0
FINAL = ("completed", "partial", "failed", "cancelled")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_STEP = re.compile(r"\b(propose|review|revise|vote):\d+|agent-[a-z]+-\d+")


def fill(count: int) -> None:
    """Submits deliberations; FLEET_VALKEY_URL says where."""
    from fleet.dispatch import Dispatcher
    from fleet.settings import get_settings

    settings = get_settings()
    dispatcher = Dispatcher(Store.from_settings(settings), settings)
    request = DeliberationRequest(task_description="Nothing is to be done.", role=Role.DEV, rounds=0, num_agents=2)
    for _ in range(count):
        dispatcher.submit_deliberation(request)


def measure(folder: Path, count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    fleet = Fleet(folder, "scripted", None)
    servers, processes = [fleet.valkey, fleet.nats, fleet.neo4j], [fleet.listener, *fleet.workers]
    settings = {"FLEET_DELIBERATION_RETENTION_S": str(RETENTION_S), "FLEET_QUEUE_LIMIT": "0"}
    with started(fleet, servers, []), fleet.valkey.client() as client:
        store = Store(client)
        with started(fleet, [], processes, **settings):
            _fill(fleet, WARM_UP)
            wait_until(lambda: _ended(store) == WARM_UP, 300, "the warm-up is done")
            _forgotten(store)
        before, lasting_before = _memory(client), _lasting(client, families(client))
        _fill(fleet, count)
        queued, found = _memory(client), families(client)
        with started(fleet, [], processes, **settings):
            rows = _drain(store, count, [*servers, *processes])
            drained = _memory(client)
            _forgotten(store)
        left = families(client)
        figures = {
            "bytes_queued": round((queued - before) / count),
            "bytes_drained": round((drained - before) / count),
            "bytes_left": round((_lasting(client, left) - lasting_before) / count, 1),
            "families": found,
            "left": left,
        }
    return rows, figures


def _fill(fleet: Fleet, count: int) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "fill", str(count)]
    subprocess.run(command, env={**os.environ, **fleet.settings(), "FLEET_QUEUE_LIMIT": "0"}, check=True)


def _drain(store: Store, count: int, processes: Sequence[Process]) -> list[dict[str, Any]]:
    """One row per slice, each boundary as soon as it is seen."""
    before, rows = _ended(store), []
    began = time.perf_counter(), _cpu_s(processes)
    for slice in range(1, SLICES + 1):
        until = count * slice // SLICES
        wait_until(lambda until=until: _ended(store) - before >= until, 3600, f"{until} are done")
        now, share = (time.perf_counter(), _cpu_s(processes)), count / SLICES / 1000
        wall, cpu = ((end - start) / share for start, end in zip(began, now, strict=True))
        rows.append({"slice": slice, "wall_ms": round(wall, 2), "cpu_ms": round(cpu, 2)})
        began = now
    return [row | {f"{name}_ratio": _ratio(row, rows[0], name) for name in ("wall_ms", "cpu_ms")} for row in rows]


def _ratio(row: dict[str, Any], first: dict[str, Any], name: str) -> float:
    return round(row[name] / first[name], 2)


def _cpu_s(processes: Sequence[Process]) -> float:
    """Processor time that these processes and their children have taken."""
    own = [psutil.Process(process.pid) for process in processes]
    times = [one.cpu_times() for parent in own for one in (parent, *parent.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def _ended(store: Store) -> int:
    totals = store.statistics.read().totals
    return sum(getattr(totals, name) for name in FINAL)


def _forgotten(store: Store) -> None:
    """Returns when ValKey has none of the deliberations any more."""
    client = store.client
    wait_until(lambda: not client.exists(FINISHED), FORGOTTEN_WITHIN_S, "all are forgotten")
    wait_until(lambda: not _some(client, "fleet:deliberation:*"), FORGOTTEN_WITHIN_S, "all have expired")


def _some(client: "redis.Redis", pattern: str) -> bool:
    return next(iter(client.scan_iter(pattern, count=1000)), None) is not None


def _memory(client: "redis.Redis") -> int:
    info: Any = client.info("memory")
    return int(info["used_memory"])


def _lasting(client: "redis.Redis", found: dict[str, dict[str, int]]) -> int:
    """What is used without the event log, which is kept up to a fixed length, and what will expire."""
    expiring = sum(one["bytes"] for one in found.values() if not one["lasting"])
    return _memory(client) - int(client.memory_usage(EVENTS, samples=0) or 0) - expiring


def families(client: "redis.Redis") -> dict[str, dict[str, int]]:
    """By a key's name without ids: how many there are, and their bytes, estimated from some."""
    counts: dict[str, int] = defaultdict(int)
    sizes: dict[str, list[int]] = defaultdict(list)
    lasting: set[str] = set()
    for key in client.scan_iter(count=1000):
        family = _STEP.sub("*", _ID.sub("*", key))
        counts[family] += 1
        if len(sizes[family]) < SAMPLE:
            sizes[family].append(int(client.memory_usage(key) or 0))
            lasting |= {family} if client.ttl(key) == -1 else set()
    estimates = {name: round(counts[name] * sum(found) / len(found)) for name, found in sizes.items()}
    largest = sorted(estimates, key=lambda name: -estimates[name])
    return {name: {"keys": counts[name], "bytes": estimates[name], "lasting": int(name in lasting)} for name in largest}


def main() -> None:
    if sys.argv[1:2] == ["fill"]:
        fill(int(sys.argv[2]))
        return
    count = int(next(iter(sys.argv[1:]), os.environ.get("N", COUNT)))
    with tempfile.TemporaryDirectory() as folder:
        rows, figures = measure(Path(folder), count)
    print(_report.table(rows))
    print(json.dumps(figures, indent=2))
    print("written to", _report.write("soak", rows, deliberations=count, retention_s=RETENTION_S, **figures))


if __name__ == "__main__":
    main()
