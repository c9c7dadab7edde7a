"""The graph of this worker process, which only the council's workers have."""

import threading
from typing import Any

from celery.signals import worker_process_shutdown, worker_shutdown

from fleet.graph import Graph
from fleet.settings import get_settings

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


@worker_shutdown.connect  # type: ignore[untyped-decorator]
@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    if _graph is not None:
        _graph.close()
