"""Puts the engine into the worker: loads it before the worker consumes, and ends the worker when it dies."""

import os
import sys
import threading
from typing import Any

import structlog
from celery import bootsteps
from celery.concurrency.thread import TaskPool
from celery.worker import state

from fleet.cluster import GPU_QUEUE, on_gpu
from fleet.dispatch import slug
from fleet.settings import get_settings, refuse
from fleet.tasks.process import host, leaving
from workers.gpu.engine import VllmEngine, kill_processes
from workers.gpu.loading import LoadFailed, Recipe, Stopped, device

log = structlog.get_logger(__name__)

# For what ran to go back to its queue; a shutdown that takes longer is stuck in something that died with the engine.
LAST_WORDS_S = 20.0


class EngineHost(bootsteps.StartStopStep):  # type: ignore[misc]
    """Loads the engine when the pool is there and nothing was consumed yet.

    It is closed by the runtime when the worker is down, not by `stop`, which comes while tasks still drain.
    """

    requires = ("celery.worker.components:Pool", "fleet.tasks.reporter:Reporter")

    def __init__(self, worker: Any, **kwargs: Any):
        super().__init__(worker, **kwargs)
        settings = get_settings()
        _check_pool(worker)
        try:
            recipe = Recipe.from_settings(settings, worker.concurrency)
        except LoadFailed as error:
            refuse("worker", str(error))
        _check_queues(worker.app.amqp.queues.consume_from, recipe.name)
        self._engine = VllmEngine(recipe, _end_worker)

    def start(self, parent: Any) -> None:  # noqa: ARG002
        log.info("engine.loads", model=self._engine.model, device=device())
        try:
            self._engine.load(leaving)
        except Stopped:
            sys.exit(os.EX_OK)
        except LoadFailed as error:
            log.critical("engine.load_failed", reason=str(error))
            kill_processes()
            refuse("worker", str(error))
        host(self._engine)
        log.info("engine.loaded", model=self._engine.model)

    def stop(self, parent: Any) -> None:
        """Tasks still run."""

    def terminate(self, parent: Any) -> None:  # noqa: ARG002
        self._engine.close()


def _check_pool(worker: Any) -> None:
    """Refuses what would ask the engine for one thing at a time."""
    if not issubclass(worker.pool_cls, TaskPool):
        name = worker.pool_cls.__module__.rpartition(".")[2]
        refuse("worker", f"the pool {name} has no threads that could share an engine: leave -P away, or use -P threads")
    if worker.concurrency < 2:
        refuse("worker", "-c 1 would give the engine one request at a time: leave -c away, or set FLEET_GPU_SLOTS")


def _check_queues(queues: Any, model: str) -> None:
    """Refuses queues whose work this worker cannot do."""
    own = f"{GPU_QUEUE}.{slug(model)}"
    for queue in sorted(queues):
        if not on_gpu(queue):
            refuse("worker", f"the queue {queue} is not for GPU workers: use -Q {GPU_QUEUE}, or -Q {own}")
        if queue not in (GPU_QUEUE, own):
            refuse("worker", f"the queue {queue} is for another model than {model}, whose queue is {own}")


def _end_worker(reason: str) -> None:
    """The worker takes no more work, what runs goes back to its queue, and the process ends with exit code 70.

    Nothing could wake the engine again: whoever supervises the worker starts a new one.
    """
    if not leaving():
        state.should_stop = os.EX_SOFTWARE
    threading.Thread(target=_insist, args=(reason,), name="last-words", daemon=True).start()


def _insist(reason: str) -> None:
    if not threading.Event().wait(LAST_WORDS_S):
        log.critical("worker.stuck", reason=reason)
        kill_processes()
        os._exit(os.EX_SOFTWARE)
