"""What it costs to wait for ValKey's disk before work counts as accepted: `python -m benchmarks.durability`.

Plans of one role are handed in, and no worker runs. Each way is a fleet of its own, all at once, whose turns alternate:

* everysec: FLEET_DURABILITY=everysec, the default, on a ValKey with `appendfsync everysec`
* fsync: FLEET_DURABILITY=fsync on a ValKey with `appendfsync always`, which it needs
* always: FLEET_DURABILITY=everysec on a ValKey with `appendfsync always`: what of the cost is ValKey's

`per_s`, `p50_ms` and `p99_ms` are of HTTP, `nats_per_s` of events until all are acknowledged; medians of `ROUNDS`
rounds, the percentiles over all. A ratio is to the row everysec of the same number of clients.
"""

import contextlib
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import _report
from benchmarks._fleet import Client, started
from benchmarks.ingest import by_nats, consumes, plan
from fleet.stack.processes import Fleet
from tests.harness import wait_until

ROUNDS = 3
CLIENTS = (1, 8)
PLANS = 20  # of each client in a round
EVENTS = 200
WAYS = {  # way → FLEET_DURABILITY, appendfsync
    "everysec": ("everysec", "everysec"),
    "fsync": ("fsync", "always"),
    "always": ("everysec", "always"),
}
Figures = dict[tuple[str, int], dict[str, list[float]]]


def measure(folder: Path) -> Figures:
    figures: Figures = defaultdict(lambda: defaultdict(list))
    with contextlib.ExitStack() as stack:
        fleets = {way: stack.enter_context(_running(folder / way, *WAYS[way])) for way in WAYS}
        for turn in range(ROUNDS + 1):
            for way in list(WAYS) if turn % 2 else list(WAYS)[::-1]:
                for clients in CLIENTS:
                    found = _turn(fleets[way], clients)
                    for name, values in found.items() if turn else ():  # the first opens connections, loads scripts
                        figures[way, clients][name] += values
    return figures


@contextlib.contextmanager
def _running(folder: Path, durability: str, appendfsync: str) -> Any:
    fleet = Fleet(folder, "scripted", None)
    fleet.valkey.options = ("--appendfsync", appendfsync)
    fleet.api.path = "/livez"  # there is no Neo4j, and nothing here needs it
    with started(fleet, [fleet.valkey, fleet.nats], [fleet.listener, fleet.api], FLEET_DURABILITY=durability):
        wait_until(lambda: consumes(fleet), what="the listener consumes")
        yield fleet


def _turn(fleet: Fleet, clients: int) -> dict[str, list[float]]:
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = [ms for one in pool.map(lambda _: _post(fleet), range(clients)) for ms in one]
    per_s = len(times) / (time.perf_counter() - began)
    return {"per_s": [per_s], "ms": times, "nats_per_s": [by_nats(fleet, EVENTS)]}


def _post(fleet: Fleet) -> list[float]:
    times = []
    with Client(fleet) as client:
        for body in [plan().model_dump(mode="json", exclude_none=True) for _ in range(PLANS)]:
            began = time.perf_counter()
            client.post("/v1/plans", body)
            times.append((time.perf_counter() - began) * 1000)
    return times


def _row(figures: Figures, way: str, clients: int) -> dict[str, Any]:
    row: dict[str, Any] = {"way": way, "clients": clients, "plans": len(figures[way, clients]["ms"])}
    of_way, of_first = (_summary(figures[one, clients]) for one in (way, next(iter(WAYS))))
    for name, figure in of_way.items():
        row |= {name: round(figure, 1), f"{name}_ratio": round(figure / of_first[name], 2)}
    return row


def _summary(found: dict[str, list[float]]) -> dict[str, float]:
    ms = quantiles(found["ms"], n=100, method="inclusive")
    return {
        "per_s": median(found["per_s"]),
        "p50_ms": ms[49],
        "p99_ms": ms[98],
        "nats_per_s": median(found["nats_per_s"]),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    rows = [_row(figures, way, clients) for clients in CLIENTS for way in WAYS]
    print(_report.table(rows))
    print("written to", _report.write("durability", rows, rounds=ROUNDS, events=EVENTS))


if __name__ == "__main__":
    main()
