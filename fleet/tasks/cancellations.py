"""Tells the parts that run in this process when their deliberation is cancelled, or goes on without them."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import structlog
from redis.exceptions import RedisError

from fleet.engines.base import Cancellation
from fleet.store import Part, Store

log = structlog.get_logger(__name__)

INTERVAL_S = 0.5


class Cancellations:
    """One thread per process looks after all its running parts; there is none while nothing runs."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A forked child has none of its parent's threads and runs none of its parts."""
        self._lock = threading.Lock()
        self._running: dict[Cancellation, Part] = {}  # a part may run twice at the same time
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def of(self, part: Part, store: Store) -> Iterator[Cancellation]:
        """What is set as soon as nobody wants the part's answer any more, while the block lasts."""
        cancellation = Cancellation()
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._watch, args=(store,), name="cancellations", daemon=True)
                thread.start()
                self._thread = thread
            self._running[cancellation] = part
        try:
            yield cancellation
        finally:
            with self._lock:
                del self._running[cancellation]

    def _watch(self, store: Store) -> None:
        while True:
            time.sleep(INTERVAL_S)
            with self._lock:
                running = list(self._running.items())
                if not running:
                    self._thread = None
                    return
            try:
                self._tell(running, store)
            except RedisError:
                continue  # the store says so where it matters
            except Exception:
                log.exception("cancellations.failed")

    def _tell(self, running: list[tuple[Cancellation, Part]], store: Store) -> None:
        unwanted = store.deliberations.unwanted([part for _, part in running])
        for cancellation, part in running:
            if part in unwanted and not cancellation.is_set():
                log.info("part.cancelled", deliberation_id=part.deliberation_id, step=part.step, agent_id=part.agent_id)
                cancellation.set()


cancellations = Cancellations()
os.register_at_fork(after_in_child=cancellations.reset)
