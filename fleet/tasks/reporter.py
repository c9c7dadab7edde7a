"""Every worker says every two seconds what it is and what it runs, so that nobody has to ask the workers."""

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery import bootsteps
from celery.concurrency import ALIASES
from celery.signals import worker_ready, worker_shutdown
from celery.worker import state
from redis.exceptions import RedisError

import fleet
from fleet.cluster import EngineState, Job, WorkerState
from fleet.dispatch import ANSWER
from fleet.models import Role
from fleet.settings import Settings, get_settings
from fleet.store import Store
from fleet.tasks.process import hosted
from fleet.tasks.usage import Usage, host_memory_mb
from fleet.valkey.transport import active_requests

log = structlog.get_logger(__name__)

INTERVAL_S = 2.0
STOP_S = 3.0  # the last words to ValKey; a record that stays ends by itself


class Reporter(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the reporter's thread, after the pool has forked its children."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any):
        super().__init__(worker, **kwargs)
        self._over, self._consumes = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(worker,), name="reporter", daemon=True)

    def start(self, parent: Any) -> None:  # noqa: ARG002
        worker_ready.connect(self._begin)
        worker_shutdown.connect(self._end)
        self._thread.start()

    def stop(self, parent: Any) -> None:
        """A warm shutdown begins: what runs is to be seen until it ends, `worker_shutdown` comes then."""

    def terminate(self, parent: Any) -> None:  # noqa: ARG002
        self._end()

    def _begin(self, **_: Any) -> None:
        self._consumes.set()

    def _end(self, **_: Any) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self, worker: Any) -> None:
        store = Store.from_settings(get_settings())
        report = Report(worker, store, get_settings(), self._consumes.is_set)
        away = False
        while True:
            try:
                report.once()
                away = False
            except RedisError as error:
                if not away:
                    log.warning("reporter.valkey_away", reason=str(error))
                away = True
            except Exception:
                log.exception("reporter.failed")
            if self._over.wait(INTERVAL_S):
                break
        report.withdraw()
        store.close()


class Report:
    """What one worker says about itself."""

    def __init__(self, worker: Any, store: Store, settings: Settings, consumes: Callable[[], bool]):
        self._worker, self._store, self._settings, self._consumes = worker, store, settings, consumes
        self._slots = worker.pool.num_processes  # what a pool of one makes of the concurrency asked for
        self._usage = Usage(os.getpid())

    def once(self) -> None:
        """Raises: RedisError when ValKey is away."""
        self._store.workers.report(self._state(self._store.workers.now_ms()))

    def withdraw(self) -> None:
        """Takes the report back; when ValKey is away, its time runs out."""
        try:
            self._store.workers.remove(self._worker.hostname)
        except RedisError as error:
            log.warning("reporter.valkey_away", reason=str(error))

    def _state(self, now_ms: int) -> WorkerState:
        engine = self._engine()
        jobs = sorted((_job(request, now_ms) for request in active_requests()), key=lambda job: job.started_at_ms)
        return WorkerState(
            worker=self._worker.hostname,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=fleet.__version__,
            pool=_pool_name(self._worker.pool_cls),
            slots=self._slots,
            queues=self._queues(engine.get("engine_state")),
            jobs=tuple(jobs),
            completed=max(0, state.total_count.total() - len(jobs)),
            memory_mb=self._usage.memory_mb(),
            cpu_percent=self._usage.cpu_percent(),
            host_memory_mb=host_memory_mb(),
            host_cpus=os.cpu_count(),
            at_ms=now_ms,
            **engine,
        )

    def _queues(self, engine: EngineState | None) -> tuple[str, ...]:
        """What it takes jobs from and gets done."""
        able = self._consumes() and state.should_stop is None and (engine is None or engine.live)
        return tuple(self._worker.app.amqp.queues.consume_from) if able else ()

    def _engine(self) -> dict[str, Any]:
        """What the agents think with, in a worker that serves them."""
        settings, engine = self._settings, hosted()
        if engine is not None:
            return {"engine": engine.name, "model": engine.model, "engine_state": engine.state()}
        serves = settings.agent_queue in self._worker.app.amqp.queues.consume_from
        return {"engine": settings.engine, "model": settings.model} if serves else {}


def _job(request: Any, now_ms: int) -> Job:
    age_ms = int((time.time() - (request.time_start or time.time())) * 1000)  # both of this machine's clock
    return Job(
        job_id=request.id,
        name=request.name,
        queue=(request.delivery_info or {}).get("routing_key"),
        started_at_ms=now_ms - age_ms,
        **(_about(request) if request.name == ANSWER else {}),
    )


def _about(request: Any) -> dict[str, Any]:
    """Which deliberation, step, agent and task an agent's part belongs to; nothing if its arguments are no such."""
    try:
        id, step, agent_id = request.args
        about = request.kwargs["about"]
        return {
            "deliberation_id": str(id),
            "step": str(step),
            "agent_id": str(agent_id),
            "role": Role(about["role"]),
            "task_id": str(about["task_id"]),
        }
    except (ValueError, TypeError, KeyError):
        return {}


def _pool_name(pool: type) -> str:
    path = f"{pool.__module__}:{pool.__name__}"
    return next((name for name, known in ALIASES.items() if known == path), path)
