"""A child process in a session of its own, and a way to start several and wait until they are ready."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from fleet.stack.errors import PortTaken, StartFailed
from fleet.stack.ports import free_port, is_free
from fleet.stack.reaper import reaper

LOG_BYTES = 10 * 2**20
POLL_S = 0.02


class Process:
    """A child that leads a process group; its output is appended to `log`. None in `env` removes a variable."""

    ready_timeout_s = 60.0

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        name: str = "",
    ):
        self.command, self.log, self.cwd = list(command), log, cwd
        self.env: dict[str, str | None] = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self.name = name or log.stem
        self.popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._swept = False

    def spawn(self) -> None:
        """Starts the program and returns at once."""
        self._rotate_log()
        guard = reaper()
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={key: value for key, value in self.env.items() if value is not None},
                cwd=self.cwd,
                start_new_session=True,
                preexec_fn=guard.announcement(),
            )
        self._swept = False
        guard.groups.add(self.popen.pid)

    def start(self) -> None:
        """Starts the program and returns when it is ready.

        Raises: StartFailed.
        """
        start_all([self])

    def ready(self) -> bool:
        """True when the process can serve; asked again and again after the start."""
        return self.alive

    def rebind(self) -> bool:
        """Called when it ended before it was ready; True when another attempt makes sense."""
        return False

    @property
    def pid(self) -> int:
        assert self.popen is not None, "not started"
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def terminate(self) -> None:
        """Asks the process to end, and does not wait."""
        if self.alive:
            assert self.popen is not None
            self.popen.terminate()

    def kill(self) -> None:
        """kill -9 of the process and everything below it, as a crash of the machine would."""
        if self.popen is None or self._swept:
            return
        below = self._descendants()
        self.signal_group(signal.SIGKILL)
        self.popen.wait(10)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        # From here on the number may come to mean another process.
        self._swept = True
        reaper().forget(self.pid)

    def stop(self, timeout_s: float = 30.0) -> int:
        """Asks the process to end, kill -9 of what is left after `timeout_s` seconds; returns the exit status."""
        if self.popen is None:
            return 0
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout_s)
        self.kill()
        return self.popen.returncode

    def output(self) -> str:
        """What the process wrote since it was started last."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True) if self.alive else []
        except psutil.NoSuchProcess:
            return []

    def _rotate_log(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))


class Server(Process):
    """A process that listens on a port of 127.0.0.1 and keeps it over restarts.

    A port that was given must be free. Any other may be lost before the server has it: then the next one is tried.
    """

    def __init__(self, log: Path, port: int | None = None, name: str = "", env: Mapping[str, str | None] | None = None):
        super().__init__([], log, env, name=name)
        self._settled = port is not None
        self.port = port or free_port()

    def configure(self) -> None:
        """Writes configuration files and sets `command` for `port`; called before every start."""
        raise NotImplementedError

    def answers(self) -> bool:
        """True when this very server, not another on its port, serves."""
        raise NotImplementedError

    def check_port(self) -> None:
        """Takes another port when this one is taken and may change.

        Raises: PortTaken.
        """
        if not is_free(self.port):
            if self._settled:
                raise PortTaken(self.name, self.port)
            self.port = free_port()

    def spawn(self) -> None:
        self.check_port()
        self.configure()
        super().spawn()

    def ready(self) -> bool:
        ready = self.alive and self.answers()
        self._settled = self._settled or ready
        return ready

    def rebind(self) -> bool:
        return not self._settled and not is_free(self.port)


def start_all(
    processes: Sequence[Process],
    on_ready: Callable[[Process, float], None] = lambda *_: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Starts `processes` at once and returns when all are ready; `meanwhile` is called while it waits and may raise.

    Raises: StartFailed when one ends or is not ready within its `ready_timeout_s`, PortTaken. The others keep running.
    """
    began = time.monotonic()
    for process in processes:
        process.spawn()
    waiting = list(processes)
    while waiting:
        for process in [process for process in waiting if _is_ready(process, began)]:
            waiting.remove(process)
            on_ready(process, time.monotonic() - began)
        meanwhile()
        time.sleep(POLL_S if waiting else 0)


def _is_ready(process: Process, began: float) -> bool:
    if process.ready():
        return True
    if not process.alive:
        if not process.rebind():
            raise _failure(process, f"ended with status {process.stop()}")
        process.spawn()
    if time.monotonic() - began > process.ready_timeout_s:
        raise _failure(process, f"was not ready within {process.ready_timeout_s:g} s")
    return False


def _failure(process: Process, reason: str) -> StartFailed:
    return StartFailed(process.name, reason, process.log, "\n".join(process.output().splitlines()[-15:]))
