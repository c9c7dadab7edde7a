"""Real servers and processes for tests: each on a free port, in a folder of its own, stopped by process id."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from fleet.stack.ports import free_port
from fleet.stack.process import Process
from fleet.stack.servers import NatsServer, Neo4jServer, ValkeyServer

__all__ = ["NatsServer", "Neo4jServer", "Process", "ValkeyServer", "free_port", "running", "wait_until"]

T = TypeVar("T")
P = TypeVar("P", bound=Process)


def wait_until(condition: Callable[[], T], timeout_s: float = 30.0, what: str = "") -> T:
    """Returns the first truthy value of `condition`; AssertionError naming `what` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def running(process: P) -> Iterator[P]:
    process.start()
    try:
        yield process
    finally:
        process.stop()
