"""What one more deliberation costs with 100 to 20,000 in the queue: `python -m benchmarks.growth`.

For each depth a new ValKey is filled with that many deliberations of three agents; then the agents' worker starts.

* submit_ms: one submission, with its parts on the queue; the median of the last 100
* bytes: what ValKey's used memory grew by, per deliberation
* drain_ms: per deliberation, while the worker answers the parts of `SAMPLE` of them, after those of `WARM_UP` others.
  Nobody closes their steps, so that what is measured is the same at any depth.

Depths are measured in `ROUNDS` rounds, each figure is their median; a ratio is to the first row's figure, flat is 1.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import _report
from benchmarks._fleet import started
from fleet.events import TaskCompleted
from fleet.models import DeliberationRequest, Role
from fleet.stack.processes import Fleet
from fleet.store import Store

DEPTHS = (100, 1000, 5000, 20_000)
ROUNDS = {100: 3, 1000: 3, 5000: 2, 20_000: 1}
LAST = 100
WARM_UP, SAMPLE = 10, 80


def fill(count: int) -> None:
    """Submits deliberations and prints the median of the last submissions, in ms; FLEET_VALKEY_URL says where."""
    from fleet.dispatch import Dispatcher
    from fleet.settings import get_settings

    settings = get_settings()
    dispatcher = Dispatcher(Store.from_settings(settings), settings)
    request = DeliberationRequest(task_description="Nothing is to be done.", role=Role.DEV, rounds=0, num_agents=3)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        dispatcher.submit_deliberation(request)
        times.append((time.perf_counter() - began) * 1000)
    print(json.dumps(median(times[-LAST:])))


def measure(folder: Path, depth: int) -> dict[str, float]:
    fleet = Fleet(folder, "scripted", None)
    with started(fleet, [fleet.valkey], []), fleet.valkey.client() as client:
        store = Store(client)
        before = _used(store)
        submit_ms = _fill(fleet, depth)
        bytes_each = (_used(store) - before) / depth
        with started(fleet, [], [one for one in fleet.workers if one.name == "worker-agents"]):
            return {"submit_ms": submit_ms, "bytes": bytes_each, "drain_ms": _drain(store)}


def _fill(fleet: Fleet, count: int) -> float:
    command = [sys.executable, "-m", "benchmarks.growth", "fill", str(count)]
    done = subprocess.run(command, env={**os.environ, **fleet.settings()}, check=True, stdout=subprocess.PIPE)
    return float(json.loads(done.stdout))


def _used(store: Store) -> int:
    info: Any = store.client.info("memory")
    return int(info["used_memory"])


def _drain(store: Store) -> float:
    """The time that the parts of one deliberation take, by the event log."""
    ends: list[int] = []
    after, parts = "0", (WARM_UP + SAMPLE) * 3
    while len(ends) < parts:
        for event in store.events.read(after, 1000, block_ms=1000):
            after = event.id
            if event.subject == TaskCompleted.SUBJECT:
                ends.append(int(event.id.partition("-")[0]))
    return (ends[parts - 1] - ends[WARM_UP * 3 - 1]) / SAMPLE


def main() -> None:
    if sys.argv[1:2] == ["fill"]:
        fill(int(sys.argv[2]))
        return
    figures: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for turn in range(max(ROUNDS.values())):
        for depth in (depth for depth in DEPTHS if turn < ROUNDS[depth]):
            with tempfile.TemporaryDirectory() as folder:
                for name, figure in measure(Path(folder), depth).items():
                    figures[depth][name].append(figure)
    rows = [_row(depth, figures[depth], figures[DEPTHS[0]]) for depth in DEPTHS]
    print(_report.table(rows))
    print("written to", _report.write("growth", rows, sample=SAMPLE))


def _row(depth: int, figures: dict[str, list[float]], first: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"queued": depth, "rounds": ROUNDS[depth]}
    for name, values in figures.items():
        row |= {name: round(median(values), 2), f"{name}_ratio": round(median(values) / median(first[name]), 2)}
    return row


if __name__ == "__main__":
    main()
