"""Durable chords against Celery's own, on the same machine in the same run: `python -m benchmarks.chord`.

Every combination of pool and header size is measured in rounds that alternate between the backends, so that whatever
else the machine does hits both. A round is a producer process that submits chords one after another (the time of one),
then a number of chords with 50 in flight (how many per second), then 50 that nobody waits for (the subscriptions that
stay in the producer). Figures are medians over the rounds. The durable side runs all that it needs, sweeper and
transport included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
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
ROUNDS = 5
IN_FLIGHT = 50


def produce(size: int) -> dict[str, float]:
    """One round, in a process that has only this backend's code loaded."""
    from celery import chord

    from benchmarks.chord_app import app, body, member

    def submit() -> Any:
        return chord([member.s(number) for number in range(size)])(body.s())

    for _ in range(5):
        submit().get(timeout=30)
    count = 600 // (size + 1)
    times = [_seconds(lambda: submit().get(timeout=30)) for _ in range(count // 4)]
    total = _seconds(lambda: _in_flight(submit, count))
    return {"milliseconds": median(times) * 1000, "per_second": count / total, "left": _left_behind(app, submit)}


def _left_behind(app: Any, submit: Any) -> int:
    """Subscriptions that are still there once 50 chords that nobody waits for have ended."""
    ids = [submit().id for _ in range(50)]
    wait_until(lambda: all(app.AsyncResult(task_id).ready() for task_id in ids), 60, "50 chords end")
    return len(app.backend.client.pubsub_channels("celery-task-meta-*"))


def _in_flight(submit: Any, count: int) -> None:
    window: list[Any] = []
    for _ in range(count):
        if len(window) == IN_FLIGHT:
            window.pop(0).get(timeout=60)
        window.append(submit())
    for result in window:
        result.get(timeout=60)


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(folder: Path, pool: str, slots: int) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        valkey = ValkeyServer(folder)
        stack.enter_context(running(valkey))
        for number, backend in enumerate(BACKENDS):
            worker = Process(
                [sys.executable, "-m", "celery", "-A", "benchmarks.chord_app", "worker", "-P", pool, "-c", str(slots),
                 "-n", f"{backend}@bench", "-l", "WARNING", "--without-gossip", "--without-mingle"],
                folder / f"{backend}.log", _env(valkey, number), ROOT,
            )  # fmt: skip
            stack.enter_context(running(worker))
        return [_row(valkey, pool, slots, size) for size in SIZES]


def _env(valkey: ValkeyServer, number: int) -> dict[str, str]:
    # A database each: the idle worker sleeps in its own.
    return {"BENCH_URL": valkey.url.removesuffix("0") + str(number), "BENCH_BACKEND": BACKENDS[number]}


def _row(valkey: ValkeyServer, pool: str, slots: int, size: int) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, float]]] = {backend: [] for backend in BACKENDS}
    for turn in range(ROUNDS):
        for number in (0, 1) if turn % 2 else (1, 0):
            rounds[BACKENDS[number]].append(_round(_env(valkey, number), size))
    row: dict[str, Any] = {"pool": f"{pool} -c{slots}", "header": size}
    for name, unit in (("milliseconds", "ms"), ("per_second", "per_s")):
        stock, durable = (median(each[name] for each in rounds[backend]) for backend in BACKENDS)
        row |= {f"stock_{unit}": round(stock, 2), f"durable_{unit}": round(durable, 2)}
        row[f"ratio_{unit}"] = round(durable / stock, 3)
    for backend in BACKENDS:
        row[f"{backend}_left"] = int(median(each["left"] for each in rounds[backend]))
    return row


def _round(env: dict[str, str], size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.chord", "produce", str(size)]
    done = subprocess.run(command, env={**os.environ, **env}, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    if sys.argv[1:2] == ["produce"]:
        print(json.dumps(produce(int(sys.argv[2]))), flush=True)
        os._exit(0)  # at a normal exit the stock backend prints an error for every subscription that it still has
    rows = []
    for pool, slots in POOLS:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder), pool, slots)
    print(_report.table(rows))
    print("written to", _report.write("chord", rows, rounds=ROUNDS, in_flight=IN_FLIGHT))


if __name__ == "__main__":
    main()
