"""What is done to the fleet: each kind of fault in random order, again and again, on work in flight."""

import contextlib
import itertools
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import redis

from tests.chaos.engine import MODES, Engine
from tests.chaos.load import Load
from tests.chaos.running import Running, signal_all
from tests.harness import wait_until

TARGETS = {
    "agents worker": ("worker-agents", "worker-prefork"),
    "council worker": ("worker-council-1", "worker-council-2"),
    "listener": ("listener", "listener-2"),
    "API": ("api", "api-2"),
    "Flower": ("flower",),
    "ValKey": ("valkey",),
    "NATS": ("nats",),
    "Neo4j": ("neo4j",),
}
STOPPED_S = (0.5, 4.0)
LONG_STOP_S = 15.0  # longer than a lease: the work of a worker goes to others
MISBEHAVES_S = (1.5, 3.0)
# Its handler of SIGTERM raises SystemExit wherever the program is, which is lost in the callback of a weak reference.
# Who manages processes kills what does not end: `fleet up`, systemd and Kubernetes do.
DEAF = ("flower",)
GRACE_S = 20.0
UP_S = 120.0
IN_FLIGHT_S = 120.0


@dataclass(frozen=True)
class Fault:
    """What was done, to which process, when (Unix seconds) and with how many deliberations in flight."""

    kind: str
    name: str
    at_s: float
    in_flight: int
    lasts_s: float = 0.0


class Faults:
    """Does them until every kind has been done `least` times and `over` says that it is enough."""

    def __init__(self, seed: int, running: Running, engine: Engine, load: Load, in_flight: Callable[[], int]):
        self._random, self._running, self._engine, self._load = random.Random(seed), running, engine, load
        self._in_flight = in_flight
        self._beside: list[threading.Thread] = []
        self._stopped: set[str] = set()
        self._ended_s: dict[str, float] = {}
        self.done: list[Fault] = []
        self.kinds: dict[str, Callable[[str], None]] = {"kill -9: pool child": self._kill_pool_child}
        for name in TARGETS:
            self.kinds[f"kill -9: {name}"] = self._kill
            self.kinds[f"SIGSTOP: {name}"] = self._stop
        for mode in MODES:
            self.kinds[f"engine {mode}"] = self._mislead
        self.kinds |= {"connections cut": self._cut, "events repeated": self._repeat, "events reordered": self._repeat}

    def counts(self) -> Counter[str]:
        return Counter(fault.kind for fault in self.done)

    def run(self, least: int, gap_s: float, enough: Callable[[], bool]) -> None:
        """Runs whole rounds, each kind once in each, `gap_s` apart in the mean; a rolling restart goes on beside it."""
        over = threading.Event()
        rolling = threading.Thread(target=self._roll, args=(gap_s, over), daemon=True)
        rolling.start()
        rounds = 0
        while rounds < least or not enough():
            for kind in self._random.sample(sorted(self.kinds), len(self.kinds)):
                time.sleep(self._random.uniform(0.5, 1.5) * gap_s)
                if rounds < least or not enough():
                    self.kinds[kind](kind)
            rounds += 1
        over.set()
        for thread in [rolling, *self._beside]:
            thread.join()

    def _note(self, kind: str, name: str, lasts_s: float = 0.0) -> None:
        """Says what is done now, and waits until there is work in flight for it."""
        in_flight = wait_until(self._in_flight, IN_FLIGHT_S, "work is in flight")
        fault = Fault(kind, name, time.time(), in_flight, lasts_s)
        self.done.append(fault)
        lasting = f" for {lasts_s:.1f} s" if lasts_s else ""
        print(f"{time.strftime('%H:%M:%S')} {kind} ({name}{lasting}), {fault.in_flight} in flight", flush=True)

    def _after(self, seconds: float, work: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, work)
        self._beside.append(timer)
        timer.start()

    def _victim(self, kind: str) -> tuple[str, psutil.Process]:
        """A process of the kind that runs; waits for it when all of them are just being started."""
        names = TARGETS[kind.split(": ")[1]]
        name = self._random.choice(names)
        return name, self._process(name)

    def _process(self, name: str) -> psutil.Process:
        """The process, once it is ready since it was ended last and not stopped: else nothing would ever get on."""

        def found() -> psutil.Process | None:
            ready = self._running.ready_since(name, self._ended_s.get(name, 0.0))
            return self._running.process_of(name) if ready and name not in self._stopped else None

        process = wait_until(found, UP_S, f"{name} runs")
        assert process is not None
        return process

    def _kill(self, kind: str) -> None:
        name, process = self._victim(kind)
        self._note(kind, name)
        self._end(name, process.kill)

    def _kill_pool_child(self, kind: str) -> None:
        name = "worker-prefork"
        child = self._random.choice(wait_until(lambda: _children(self._process(name)), UP_S, "the pool has children"))
        self._note(kind, name)
        _unless_gone(child.kill)

    def _stop(self, kind: str) -> None:
        name, process = self._victim(kind)
        long = kind.endswith("worker") and self._random.random() < 0.3
        seconds = LONG_STOP_S if long else self._random.uniform(*STOPPED_S)
        self._note(kind, name, seconds)
        self._stopped.add(name)
        signal_all(process, signal.SIGSTOP)

        def go_on() -> None:
            signal_all(process, signal.SIGCONT)
            self._stopped.discard(name)

        self._after(seconds, go_on)

    def _mislead(self, kind: str) -> None:
        seconds, mode = self._random.uniform(*MISBEHAVES_S), kind.removeprefix("engine ")
        self._note(kind, "engine", seconds)
        self._engine.mode = mode

        def well() -> None:
            if self._engine.mode == mode:
                self._engine.mode = "well"

        self._after(seconds, well)

    def _cut(self, kind: str) -> None:
        self._note(kind, "valkey")
        with redis.Redis.from_url(self._running.details["valkey_url"]) as client:
            wait_until(lambda: _cuts(client), UP_S, "ValKey takes the command")

    def _repeat(self, kind: str) -> None:
        self._note(kind, "plans")
        pick = random.Random(self._random.random())
        self._after(0, lambda: self._load.repeat(pick, reordered=kind.endswith("reordered")))

    def _roll(self, gap_s: float, over: threading.Event) -> None:
        """SIGTERM to one process after the other, `gap_s` after the last one is ready again; each once or more."""
        names = [name for group in TARGETS.values() for name in group]
        for number, name in enumerate(itertools.cycle(names)):
            if over.wait(gap_s) and number >= len(names):
                return
            self._restart(name)

    def _restart(self, name: str) -> None:
        process = self._process(name)
        self._note("rolling restart", name)
        self._end(name, process.terminate)
        if name in DEAF:
            self._after(GRACE_S, lambda: _unless_gone(process.kill))
        self._process(name)

    def _end(self, name: str, work: Callable[[], None]) -> None:
        self._ended_s[name] = time.time()
        _unless_gone(work)


def _unless_gone(work: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # a kill and the rolling restart at once
        work()


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.NoSuchProcess:  # the rolling restart was quicker
        return []


def _cuts(client: "redis.Redis") -> bool:
    try:
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)
    except redis.RedisError:
        return False
    return True
