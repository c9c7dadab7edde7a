"""The graph of this worker process, which only the council's workers have."""

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import structlog
from celery.signals import worker_process_shutdown, worker_shutdown

from fleet.errors import Unavailable
from fleet.graph import Graph
from fleet.settings import get_settings

log = structlog.get_logger(__name__)

TRY_S = 10.0  # after which another thread may try as well: a connection that is half dead fails after minutes

_lock = threading.Lock()
_graph: Graph | None = None


def graph() -> Graph:
    """The graph, with its constraints; they are made at the first call.

    Raises: Unavailable when they were not made yet and Neo4j is away.
    """
    global _graph
    with _lock:
        if _graph is None:
            made = Graph.from_settings(get_settings())
            try:
                made.ensure_schema()
            except BaseException:
                made.close()
                raise
            _graph = made
    return _graph


class OneTries:
    """While a server is away one thread finds out whether it is back; the others go on with something else at once.

    To find out takes seconds: if each decided deliberation did, they would take every thread of the worker.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._away: Unavailable | None = None
        self._tried_at = -math.inf

    @property
    def away(self) -> bool:
        """Whether the last try failed."""
        return self._away is not None

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Around a try. Raises: Unavailable, the last try's when another thread tries already."""
        with self._lock:
            now = time.monotonic()
            if self._away and now < self._tried_at + TRY_S:
                raise Unavailable(self._away.server, self._away.reason)
            self._tried_at = now
        away = None
        try:
            yield
        except Unavailable as error:
            away = error
            raise
        finally:
            with self._lock:
                self._tried_at = -math.inf
                self._note(away)

    def _note(self, away: Unavailable | None) -> None:
        if away and not self._away:
            log.warning("graph.away", reason=str(away))
        elif self._away and not away:
            log.info("graph.back")
        self._away = away


one_tries = OneTries()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    if _graph is not None:
        _graph.close()
