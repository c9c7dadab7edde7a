"""Keeps named processes running, and ends them in an order in which no work is lost."""

import time
from collections.abc import Callable, Iterable
from enum import IntEnum
from subprocess import SubprocessError

from fleet.stack.errors import StackError
from fleet.stack.process import Process, start_all

TICK_S = 0.1
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 30.0
RAN_WELL_S = 60.0
STOP_S = 5.0
SERVER_STOP_S = 10.0


class Stage(IntEnum):
    """What a process is for. Servers start first; in a drain the last stage ends first."""

    SERVER = 0
    BRIDGE = 1
    WORKER = 2
    FRONT = 3


class Stop(IntEnum):
    """How to stop; a later request can only make it more urgent."""

    NO = 0
    DRAIN = 1
    NOW = 2


class Stopped(StackError):
    """A stop was asked for during the start."""


class Member:
    """A process with what its supervisor knows about it."""

    def __init__(self, process: Process, stage: Stage):
        self.process, self.stage = process, stage
        self.failures = 0
        self.started_at = 0.0
        self.start_at: float | None = None
        self.ready = False

    @property
    def name(self) -> str:
        return self.process.name

    def backoff_s(self) -> float:
        return min(FIRST_BACKOFF_S * 2.0 ** (self.failures - 1), LONGEST_BACKOFF_S)


class Supervisor:
    """Starts processes, servers first, starts again what ends, and stops all of them.

    `on_progress` is told in words what happens. A subclass that has something to do at the moments between overrides
    `servers_ready`, `changed` and `stopping`.
    """

    def __init__(self, on_progress: Callable[[str], None] = lambda _: None, drain_s: float = 330.0):
        self.members: list[Member] = []
        self._on_progress, self._drain_s = on_progress, drain_s
        self._stop = Stop.NO

    def servers_ready(self) -> None:
        """Called before the first process that is not a server starts."""

    def changed(self) -> None:
        """Called when everything is ready and whenever a process was started again."""

    def stopping(self) -> None:
        """Called before the first process is told to end."""

    def add(self, process: Process, stage: Stage) -> None:
        self.members.append(Member(process, stage))

    def request_stop(self, stop: Stop) -> None:
        """Makes `run` end the processes and return; may be called from a signal handler."""
        self._stop = max(self._stop, stop)

    @property
    def pids(self) -> dict[str, int]:
        return {member.name: member.process.pid for member in self.members}

    def run(self) -> None:
        """Starts everything, keeps it running until a stop is asked for, and leaves no process behind.

        Raises: StartFailed, PortTaken.
        """
        try:
            self._start()
            while self._stop is Stop.NO:
                self._tend(self.members)
                time.sleep(TICK_S)
        except Stopped:
            pass
        finally:
            self._end_all()

    def _start(self) -> None:
        servers = self._of(Stage.SERVER)
        self._start_group(servers)
        self.servers_ready()
        self._start_group([member for member in self.members if member not in servers])
        self.changed()

    def _start_group(self, members: list[Member]) -> None:
        start_all([member.process for member in members], self._report_ready, self._raise_if_stopped)
        for member in members:
            member.started_at, member.ready = time.monotonic(), True

    def _raise_if_stopped(self) -> None:
        if self._stop is not Stop.NO:
            raise Stopped

    def _report_ready(self, process: Process, seconds: float) -> None:
        self._on_progress(f"{process.name}: ready ({seconds:.1f} s)")

    def _tend(self, members: Iterable[Member]) -> None:
        for member in members:
            if member.start_at is not None:
                self._start_again(member)
            elif not member.process.alive:
                self._plan_start(member, f"ended with status {member.process.stop()}")
            elif not member.ready:
                self._await_ready(member)
            elif time.monotonic() - member.started_at > RAN_WELL_S:
                member.failures = 0

    def _plan_start(self, member: Member, reason: str) -> None:
        member.failures += 1
        member.start_at = time.monotonic() + member.backoff_s()
        self._on_progress(f"{member.name}: {reason}, starts again in {member.backoff_s():g} s")

    def _start_again(self, member: Member) -> None:
        now = time.monotonic()
        if member.start_at is None or now < member.start_at:
            return
        try:
            member.process.spawn()
        except (OSError, SubprocessError, StackError) as error:
            self._plan_start(member, f"did not start: {error}")
            return
        member.start_at, member.started_at, member.ready = None, now, False
        self.changed()

    def _await_ready(self, member: Member) -> None:
        member.ready = member.process.ready()
        running_s = time.monotonic() - member.started_at
        if member.ready:
            self._report_ready(member.process, running_s)
        elif running_s > member.process.ready_timeout_s:
            member.process.kill()
            self._plan_start(member, f"was not ready within {member.process.ready_timeout_s:g} s")

    def _end_all(self) -> None:
        servers = self._of(Stage.SERVER)
        try:
            self.stopping()
            if self._stop is Stop.DRAIN:
                self._drain(servers)
            self._end([member for member in self.members if member.stage is not Stage.SERVER], STOP_S)
            self._end(servers, SERVER_STOP_S)
        finally:
            for member in self.members:
                member.process.kill()

    def _drain(self, servers: list[Member]) -> None:
        """Nothing new comes in, running work ends, what it reported goes out; servers are kept running meanwhile."""
        self._on_progress(f"letting running work end, for up to {self._drain_s:g} s")
        for stage, grace_s in ((Stage.FRONT, STOP_S), (Stage.WORKER, self._drain_s), (Stage.BRIDGE, STOP_S)):
            self._end(self._of(stage), grace_s, lambda: self._stop is Stop.NOW, servers)

    def _end(
        self,
        members: list[Member],
        grace_s: float,
        hurry: Callable[[], bool] = lambda: False,
        tended: Iterable[Member] = (),
    ) -> None:
        began = time.monotonic()
        for member in members:
            member.process.terminate()
        while any(member.process.alive for member in members) and not hurry():
            if time.monotonic() - began > grace_s:
                break
            self._tend(tended)
            time.sleep(TICK_S / 2)
        for member in members:
            if member.process.alive:
                self._on_progress(f"{member.name}: did not end within {time.monotonic() - began:.1f} s, killed")
            member.process.kill()

    def _of(self, stage: Stage) -> list[Member]:
        return [member for member in self.members if member.stage is stage]
