"""One run: a cluster, a load, faults, and afterwards the audit."""

import contextlib
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.audit import Findings, audit, leftovers
from tests.chaos.engine import Engine
from tests.chaos.faults import Fault, Faults
from tests.chaos.load import Load
from tests.chaos.running import Running
from tests.chaos.witness import Witness
from tests.harness import wait_until

STALLED_S = 180.0  # without any deliberation that ends
CLEARED_S = 60.0
SERVERS = ("valkey", "nats", "neo4j", "engine")
BREAKER_S = 16.0  # that work may wait once more after the engine's server is back: eight times FLEET_BREAKER_OPEN_S
DIES = ("kill -9", "rolling restart")


@dataclass(frozen=True)
class Plan:
    """What to try: at least `wanted` deliberations, `rate` plans a second, as long as not more than `most` wait for
    their end; each kind of fault at least `least` times, in the mean `gap_s` apart.
    """

    seed: int
    wanted: int
    rate: float
    most: int
    gap_s: float
    least: int = 3


@dataclass
class Result:
    """What was tried and what came of it."""

    plan: Plan
    deliberations: int
    repeated: int
    misbehaved: int
    seconds: float
    faults: list[Fault]
    ready_s: dict[str, list[float]]  # by kind of fault: until what died was ready again
    result_s: dict[str, list[float]]  # until a deliberation that was handed in after it had ended
    findings: Findings

    def rows(self) -> list[dict[str, Any]]:
        """A row for each kind of fault; times in seconds."""
        return [self._row(kind) for kind in sorted({fault.kind for fault in self.faults})]

    def _row(self, kind: str) -> dict[str, Any]:
        faults = [fault for fault in self.faults if fault.kind == kind]
        row = {"fault": kind, "count": len(faults), "least in flight": min(fault.in_flight for fault in faults)}
        for name, seconds in (("ready", self.ready_s.get(kind, [])), ("next end", self.result_s.get(kind, []))):
            row[f"{name} p50"] = round(statistics.median(seconds), 1) if seconds else ""
            row[f"{name} worst"] = round(max(seconds), 1) if seconds else ""
        return row


class Run:
    """One try of a plan, with the fleet's data and logs in `folder`."""

    def __init__(self, folder: Path, plan: Plan):
        self._plan = plan
        self._engine = Engine(plan.seed)
        self._running = Running(folder / "fleet", self._engine.url)

    def __enter__(self) -> "Run":
        self._running.start()
        details = self._running.details
        self._witness = Witness(details["nats_url"])
        self._load = Load(self._plan.seed, self._running.apis, details["api_key"], details["nats_url"])
        self._faults = Faults(self._plan.seed, self._running, self._engine, self._load, self._in_flight)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._witness.close()
            self._load.close()
        self._running.stop()
        self._engine.close()

    def result(self) -> Result:
        """Raises: AssertionError when it cannot go on; what is wrong at the end is in the result's findings."""
        plan, began_s, over = self._plan, time.time(), threading.Event()
        arguments = (plan.wanted, plan.rate, plan.most, over, lambda: len(self._witness.final))
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(self._load.run, *arguments)
            try:
                self._faults.run(plan.least, plan.gap_s, lambda: len(self.ids) >= plan.wanted)
            except BaseException:  # Ctrl-C too
                self._load.given_up.set()
                raise
            over.set()
            self._wait_for_ends(loading)
        loading.result()
        with contextlib.suppress(AssertionError):  # what is left then is a finding
            wait_until(lambda: not leftovers(self.details, self.ids), CLEARED_S)
        ready_s, result_s = self._recoveries()
        return Result(
            plan=plan,
            deliberations=len(self.ids),
            repeated=self._load.repeated,
            misbehaved=self._engine.misbehaved,
            seconds=time.time() - began_s,
            faults=self._faults.done,
            ready_s=ready_s,
            result_s=result_s,
            findings=self.findings(),
        )

    @property
    def details(self) -> dict[str, Any]:
        """What the cluster's fleet.json says."""
        return self._running.details

    def findings(self) -> Findings:
        """What is wrong now."""
        findings = audit(self.details, self.ids, self._witness.seen, self._outages())
        for refusal in self._load.refusals:
            findings.add("refused", refusal)
        for trouble in self._witness.trouble:
            findings.add("witness", trouble)
        return findings

    @property
    def ids(self) -> list[str]:
        """Of everything that was handed in."""
        return [id for one in list(self._load.handed) for id in one.ids]

    def _in_flight(self) -> int:
        return sum(id not in self._witness.final for one in self._load.accepted for id in one.ids)

    def _wait_for_ends(self, loading: "Future[None]") -> None:
        """Until everything is accepted and its end was seen, or nothing ends any more."""
        moved_s, known = time.monotonic(), -1
        while not loading.done() or len(self._witness.final) < len(self.ids):
            if len(self._witness.final) != known:
                moved_s, known = time.monotonic(), len(self._witness.final)
            if time.monotonic() - moved_s > STALLED_S:
                self._load.given_up.set()
                return
            time.sleep(0.2)

    def _outages(self) -> list[tuple[float, float]]:
        """When a server was away, from and to, in Unix seconds."""
        found = []
        for fault in self._faults.done:
            if fault.name in SERVERS:
                lasts_s = fault.lasts_s + (BREAKER_S if fault.name == "engine" else 0.0)
                end_s = self._ready_after(fault) if fault.kind.startswith(DIES) else fault.at_s + lasts_s
                found.append((fault.at_s, end_s or time.time()))
        return found

    def _ready_after(self, fault: Fault) -> float | None:
        return next((at_s for at_s in self._running.ready_at[fault.name] if at_s > fault.at_s), None)

    def _recoveries(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        ready: dict[str, list[float]] = defaultdict(list)
        results: dict[str, list[float]] = defaultdict(list)
        for fault in self._faults.done:
            if fault.kind.startswith(DIES) and "child" not in fault.kind and (again_s := self._ready_after(fault)):
                ready[fault.kind].append(again_s - fault.at_s)
            if ends := self._ends_of_what_came_after(fault.at_s):
                results[fault.kind].append(min(ends) - fault.at_s)
        return ready, results

    def _ends_of_what_came_after(self, at_s: float) -> list[float]:
        later: Sequence[str] = [id for one in self._load.handed if one.began_s > at_s for id in one.ids]
        return [self._witness.final[id] for id in later if id in self._witness.final]
