"""What a worker does for chords besides running their tasks: it guards bodies, and sweeps what is due."""

# mypy: disable-error-code="misc"

import logging
import threading
from random import uniform
from typing import Any

from celery import bootsteps
from kombu.exceptions import OperationalError

from fleet.valkey.backend import Backend
from fleet.valkey.bodies import guard

logger = logging.getLogger(__name__)

#: Seconds between two looks at what is due. Each costs one call to ValKey when nothing is.
INTERVAL = 0.7


class GuardBodies(bootsteps.Step):
    """Lets every task of the worker run as a chord's body under a claim; before the pool forks."""

    def __init__(self, worker: Any, **_: Any):
        super().__init__(worker)
        if isinstance(worker.app.backend, Backend):
            for task in worker.app.tasks.values():
                guard(task)


class Sweeper(bootsteps.StartStopStep):
    """A thread that sweeps, in workers that consume one of `queues` (None: in all)."""

    queues: frozenset[str] | None = None
    interval = INTERVAL
    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **_: Any):
        super().__init__(worker)
        self._app = worker.app
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chord-sweeper", daemon=True)
        self._down = False

    def include_if(self, worker: Any) -> bool:
        consumed = set(worker.app.amqp.queues.consume_from)
        return isinstance(worker.app.backend, Backend) and (self.queues is None or bool(self.queues & consumed))

    def start(self, _worker: Any) -> None:
        self._thread.start()

    def stop(self, _worker: Any) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(5)

    terminate = stop

    def _run(self) -> None:
        # A connection of its own: one borrowed from the pool could be caught by a fork of a pool child.
        while not self._stopped.is_set():
            try:
                with self._app.connection_for_write() as connection:
                    self._sweep_until_stopped(self._app.amqp.Producer(connection, auto_declare=False))
            except (*self._app.backend.connection_errors, OperationalError, OSError) as error:
                self._note_down(error)
            except Exception:
                logger.exception("chord sweeper")
            self._wait()

    def _sweep_until_stopped(self, producer: Any) -> None:
        while not self._stopped.is_set():
            while self._app.backend.sweep(producer):
                pass
            if self._down:
                logger.info("chord sweeper: ValKey is back")
                self._down = False
            self._wait()

    def _wait(self) -> None:
        self._stopped.wait(uniform(0.7, 1.3) * self.interval)

    def _note_down(self, error: BaseException) -> None:
        if not self._down:
            logger.warning("chord sweeper: ValKey does not answer, trying on: %s", error)
        self._down = True
