"""What the views use. Nothing connects before it is first used: gunicorn forks, and connections must not be shared."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import cast

from flask import Flask, current_app

from fleet.api import problems
from fleet.api.readiness import Probe
from fleet.dispatch import Dispatcher
from fleet.graph import Graph
from fleet.settings import Settings
from fleet.store import Store

_NAME = "fleet"
_GRAPH_TIMEOUT_S = 2.0
_GRAPH_RETRY_S = 0.5


class LongRequests:
    """How many streams and long waits are open; thread-safe. `most` leaves threads for everybody else."""

    def __init__(self, most: int):
        self.most = most
        self._open = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Raises: Refused (503) when all are taken."""
        with self._lock:
            if self._open >= self.most:
                raise problems.Refused(problems.BUSY, f"{self.most} streams and long waits are open in this process")
            self._open += 1

    def leave(self) -> None:
        with self._lock:
            self._open -= 1

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()


class Services:
    """One per application and process; its clients are thread-safe."""

    def __init__(self, settings: Settings, most_long_requests: int = 12):
        self.settings = settings
        self.long_requests = LongRequests(most_long_requests)
        # Whether this process is to stop: streams and long waits end then. The server sets it.
        self.stopping: Callable[[], bool] = lambda: False

    @cached_property
    def store(self) -> Store:
        return Store.from_settings(self.settings)

    @cached_property
    def readiness(self) -> Probe:
        return Probe(self.settings, lambda: self.graph)

    @cached_property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.store, self.settings)

    @cached_property
    def graph(self) -> Graph:
        return Graph.from_settings(
            self.settings, connection_timeout_s=_GRAPH_TIMEOUT_S, max_transaction_retry_s=_GRAPH_RETRY_S
        )

    def install(self, app: Flask) -> None:
        app.extensions[_NAME] = self


def services() -> Services:
    """Those of the application that handles the current request."""
    return cast(Services, current_app.extensions[_NAME])
