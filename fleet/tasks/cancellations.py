"""Looks after the parts that run in this process: says that they run, and hears when nobody wants them any more."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import structlog
from redis.exceptions import RedisError

from fleet.engines.base import Cancellation
from fleet.store import Attempt, Store
from fleet.tasks.process import leaving

log = structlog.get_logger(__name__)

INTERVAL_S = 0.5


class Cancellations:
    """One thread per process looks after all its running parts; there is none while nothing runs."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A forked child has none of its parent's threads and runs none of its parts."""
        self._lock = threading.Lock()
        self._running: dict[Attempt, Cancellation] = {}
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def of(self, attempt: Attempt, store: Store) -> Iterator[Cancellation]:
        """What is set as soon as nobody wants the attempt's answer any more, while the block lasts."""
        cancellation = Cancellation()
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._watch, args=(store,), name="cancellations", daemon=True)
                thread.start()
                self._thread = thread
            self._running[attempt] = cancellation
        try:
            yield cancellation
        finally:
            with self._lock:
                self._running.pop(attempt, None)  # a message that came back is the same attempt once more

    def _watch(self, store: Store) -> None:
        while True:
            time.sleep(INTERVAL_S)
            with self._lock:
                running = dict(self._running)
                if not running:
                    self._thread = None
                    return
            try:
                self._tell(running, store)
            except RedisError:
                continue  # the store says so where it matters
            except Exception:
                log.exception("cancellations.failed")

    def _tell(self, running: dict[Attempt, Cancellation], store: Store) -> None:
        for attempt in store.deliberations.renew(list(running), leaving()):
            cancellation, part = running[attempt], attempt.part
            if not cancellation.is_set():
                log.info("part.cancelled", deliberation_id=part.deliberation_id, step=part.step, agent_id=part.agent_id)
                cancellation.set()


cancellations = Cancellations()
os.register_at_fork(after_in_child=cancellations.reset)
