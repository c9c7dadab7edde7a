"""Durable chords against Celery's own, on the same machine in the same run: `python -m benchmarks.chord`.

For every pool and header size a worker and a producer per backend are up at once, and rounds alternate between them, so
that whatever else the machine does hits both. A round is some chords one after another (the time of one) or some with
50 in flight (how many per second). At the end, the subscriptions that 50 chords that nobody waits for leave in the
producer. Figures are medians over the rounds. The durable side runs all that it needs, sweeper and transport included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import _report
from tests.harness import Process, ValkeyServer, running, wait_until

ROOT = Path(__file__).resolve().parents[1]
POOLS = (("prefork", 2), ("threads", 16))
SIZES = (3, 15)
BACKENDS = ("stock", "durable")
SEQUENCES, SEQUENCE = 12, 8  # rounds, chords in each
FLIGHTS, FLIGHT_PARTS = 6, 400  # rounds, header tasks in each
IN_FLIGHT = 50


def produce(size: int) -> None:
    """Answers one measurement per line of stdin, in a process that has only this backend's code loaded."""
    from celery import chord

    from benchmarks.chord_app import app, body, member

    def submit() -> Any:
        return chord([member.s(number) for number in range(size)])(body.s())

    measures: dict[str, Callable[[], float]] = {
        "sequence": lambda: median(_seconds(lambda: submit().get(timeout=60)) for _ in range(SEQUENCE)) * 1000,
        "flight": lambda: _per_second(submit, max(IN_FLIGHT, FLIGHT_PARTS // size)),
        "left": lambda: _left_behind(app, submit),
    }
    for line in sys.stdin:
        print(json.dumps(measures[line.strip()]()), flush=True)
    os._exit(0)  # at a normal exit the stock backend prints an error for every subscription that it still has


def _per_second(submit: Callable[[], Any], count: int) -> float:
    def flight() -> None:
        window: list[Any] = []
        for _ in range(count):
            if len(window) == IN_FLIGHT:
                window.pop(0).get(timeout=60)
            window.append(submit())
        for result in window:
            result.get(timeout=60)

    return count / _seconds(flight)


def _left_behind(app: Any, submit: Callable[[], Any]) -> int:
    before = len(app.backend.client.pubsub_channels("celery-task-meta-*"))
    ids = [submit().id for _ in range(50)]
    wait_until(lambda: all(app.AsyncResult(task_id).ready() for task_id in ids), 60, "50 chords end")
    return len(app.backend.client.pubsub_channels("celery-task-meta-*")) - before


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Producer:
    def __init__(self, env: dict[str, str], size: int):
        command = [sys.executable, "-m", "benchmarks.chord", "produce", str(size)]
        self._process = subprocess.Popen(
            command, env={**os.environ, **env}, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Producer":
        self.measure("sequence")  # the first chords open connections and load scripts
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def measure(self, name: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, file=self._process.stdin, flush=True)
        return float(json.loads(self._process.stdout.readline()))


def measure(folder: Path, pool: str, slots: int) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        valkey = ValkeyServer(folder)
        stack.enter_context(running(valkey))
        for backend in BACKENDS:
            worker = Process(
                [sys.executable, "-m", "celery", "-A", "benchmarks.chord_app", "worker", "-P", pool, "-c", str(slots),
                 "-n", f"{backend}@bench", "-l", "WARNING", "--without-gossip", "--without-mingle"],
                folder / f"{backend}.log", _env(valkey, backend), ROOT,
            )  # fmt: skip
            stack.enter_context(running(worker))
        return [_row(valkey, f"{pool} -c{slots}", size) for size in SIZES]


def _env(valkey: ValkeyServer, backend: str) -> dict[str, str]:
    # A database each, so that neither worker takes the other's messages.
    return {"BENCH_URL": valkey.url.removesuffix("0") + str(BACKENDS.index(backend)), "BENCH_BACKEND": backend}


def _row(valkey: ValkeyServer, pool: str, size: int) -> dict[str, Any]:
    row: dict[str, Any] = {"pool": pool, "header": size}
    with ExitStack() as stack:
        producers = {name: stack.enter_context(Producer(_env(valkey, name), size)) for name in BACKENDS}
        for measurement, unit, rounds in (("sequence", "ms", SEQUENCES), ("flight", "per_s", FLIGHTS)):
            figures = _alternate(producers, measurement, rounds)
            row |= {f"{name}_{unit}": round(figures[name], 2) for name in BACKENDS}
            row[f"ratio_{unit}"] = round(figures["durable"] / figures["stock"], 3)
        row |= {f"{name}_left": int(producers[name].measure("left")) for name in BACKENDS}
    return row


def _alternate(producers: dict[str, Producer], measurement: str, rounds: int) -> dict[str, float]:
    figures: dict[str, list[float]] = {name: [] for name in producers}
    for turn in range(rounds):
        for name in BACKENDS if turn % 2 else BACKENDS[::-1]:
            figures[name].append(producers[name].measure(measurement))
    return {name: median(values) for name, values in figures.items()}


def main() -> None:
    if sys.argv[1:2] == ["produce"]:
        produce(int(sys.argv[2]))
    rows = []
    for pool, slots in POOLS:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder), pool, slots)
    print(_report.table(rows))
    print("written to", _report.write("chord", rows, in_flight=IN_FLIGHT))


if __name__ == "__main__":
    main()
