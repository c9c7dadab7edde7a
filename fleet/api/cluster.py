"""/v1/jobs, /v1/cluster, /v1/queues and /v1/stats."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from flask import Response
from pydantic import Field

from fleet.api.replies import reply
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.cluster import Device, EngineState, Job, WorkerState, on_gpu, why_unserved
from fleet.dispatch import COUNCIL_QUEUE
from fleet.models import Model, Role
from fleet.store.breakers import BreakerState, State
from fleet.store.statistics import Stats

cluster = Section("cluster", "The workers and what they run, as they say themselves every 2 s")


class ActiveJob(Model):
    """A Celery task that runs; what it is about, where it is an agent's part."""

    job_id: str = Field(description="Id of the Celery task")
    name: str
    status: Literal["RUNNING"] = "RUNNING"
    worker: str
    queue: str | None = None
    role: Role | None = None
    task_id: str | None = None
    deliberation_id: str | None = None
    step: str | None = None
    agent_id: str | None = None
    start_time: datetime
    runtime_s: float


class JobPage(Model):
    items: tuple[ActiveJob, ...] = Field(description="The oldest first")
    next_cursor: str | None = Field(None, description="Always absent: there is one page")


class Worker(Model):
    """A worker that reported within the last 10 s."""

    worker: str = Field(description="Its Celery node name")
    host: str
    pid: int
    version: str | None = Field(None, description="Fleet's; absent when the worker does not say it")
    pool: str
    slots: int = Field(description="How many jobs it runs at once")
    queues: tuple[str, ...] = Field(
        description="What it takes jobs from; none while it ends, or while its engine does not answer"
    )
    engine: str | None = Field(None, description="What the agents think with, where it serves them")
    model: str | None = None
    engine_state: EngineState | None = Field(None, description="Of a GPU worker: its engine and devices, as measured")
    running: int
    completed: int = Field(description="Jobs ended since its start")
    memory_mb: float | None = Field(None, description="Resident memory of its processes, in MiB")
    cpu_percent: float | None = Field(None, description="Of its processes; 100 is one core")


class Capacity(Model):
    """What the workers' machines have, and what the workers use of it."""

    total: float
    used: float


class Gpus(Model):
    """The GPUs, or instances of them, that the workers report; each counts once."""

    total: int
    used: float | None = Field(None, description="Sum of their utilisations, 1 for a whole GPU; absent if not measured")


class Unserved(Model):
    """Agents' work that waits for a worker."""

    queue: str
    model: str | None = Field(None, description="What the work asks for; absent: whichever model the workers have")
    ready: int = Field(description="Jobs that wait")
    reason: str


class Breaker(Model):
    """What all workers know of a server that engines ask, and that failed within a day."""

    endpoint: str = Field(description="Its host and port")
    state: State = Field(
        description="closed: it is asked; open: work waits for it; half-open: one request tries whether it is back"
    )
    since: datetime
    failures: int = Field(description="In a row, over all workers")
    next_probe: datetime | None = Field(None, description="When one request tries whether it is back")
    waiting: int = Field(description="Deliberations that wait for it; their time does not run")
    reason: str | None = Field(None, description="Of the last failure")


class JobCounts(Model):
    active: int
    completed: int = Field(description="By the workers that run now, since the start of each")


class Cluster(Model):
    """Only what was measured; what was not is absent."""

    workers: tuple[Worker, ...]
    nodes: int = Field(description="Machines with a worker")
    cpus: Capacity | None = None
    memory_mb: Capacity | None = None
    gpus: Gpus | None = None
    gpu_memory_mb: Capacity | None = None
    jobs: JobCounts
    unserved: tuple[Unserved, ...] = Field(description="Agents' queues with work in them that no worker takes from")
    breakers: tuple[Breaker, ...] = Field(description="The servers that engines ask and that failed within a day")


class Queue(Model):
    queue: str
    ready: int = Field(description="Jobs that wait")
    running: int
    workers: int = Field(description="How many take jobs from it")
    model: str | None = Field(None, description="Of a GPU queue: the model that its work asks for, if it asks for one")
    required: bool = Field(description="The fleet is not ready without a worker that takes jobs from it")


class QueuePage(Model):
    items: tuple[Queue, ...]
    next_cursor: str | None = Field(None, description="Always absent: there is one page")


@cluster.operation(
    "GET", "/jobs", Operation(summary="List what the workers run right now", answers={200: Answer("All jobs", JobPage)})
)
def list_jobs() -> Response:
    workers = services().store.workers
    states, now_ms = workers.list(), workers.now_ms()
    jobs = (_active(job, state.worker, now_ms) for state in states for job in state.jobs)
    return reply(JobPage(items=tuple(sorted(jobs, key=lambda job: (job.start_time, job.job_id)))))


@cluster.operation(
    "GET",
    "/cluster",
    Operation(summary="The workers and what they use", answers={200: Answer("The cluster", Cluster)}),
)
def get_cluster() -> Response:
    states = services().store.workers.list()
    hosts = {state.host: state for state in states}.values()
    gpus = devices(states).values()
    return reply(
        Cluster(
            workers=tuple(map(_worker, states)),
            nodes=len(hosts),
            cpus=_capacity([one.host_cpus for one in hosts], [_cores(one) for one in states]),
            memory_mb=_capacity([one.host_memory_mb for one in hosts], [one.memory_mb for one in states]),
            gpus=_gpus(gpus),
            gpu_memory_mb=_capacity([one.memory_total_mb for one in gpus], [one.memory_used_mb for one in gpus]),
            jobs=JobCounts(
                active=sum(len(state.jobs) for state in states), completed=sum(state.completed for state in states)
            ),
            unserved=_unserved(states, services().store.queues.models()),
            breakers=tuple(map(_breaker, services().store.breakers.list())),
        )
    )


@cluster.operation(
    "GET",
    "/queues",
    Operation(
        summary="How much waits and runs in each queue",
        description="The agents' queue, the council's, every other that a worker takes jobs from, and every one that "
        "agents' work was ever sent to.",
        answers={200: Answer("All queues", QueuePage)},
    ),
)
def list_queues() -> Response:
    return reply(QueuePage(items=queues(services().store.workers.list())))


@cluster.operation(
    "GET",
    "/stats",
    Operation(summary="Totals and rates of deliberations", answers={200: Answer("The figures", Stats)}),
)
def get_stats() -> Response:
    return reply(services().store.statistics.read(services().settings.queue_limit))


def queues(states: Sequence[WorkerState]) -> tuple[Queue, ...]:
    """The queues that there have to be, those that these workers take jobs from, and those that ever had work."""
    store, models = services().store, services().store.queues.models()
    required = {services().settings.agent_queue, COUNCIL_QUEUE}
    ready = store.statistics.ready(sorted(required.union(models, *(state.queues for state in states))))
    return tuple(
        Queue(
            queue=name,
            ready=count,
            running=sum(job.queue == name for state in states for job in state.jobs),
            workers=sum(name in state.queues for state in states),
            model=asked_for(name, models),
            required=name in required,
        )
        for name, count in ready.items()
    )


def devices(states: Iterable[WorkerState]) -> dict[str, Device]:
    """Every GPU once, by its UUID, as the worker says that looked at it last."""
    latest = sorted(states, key=lambda state: state.at_ms)
    return {one.uuid: one for state in latest if state.engine_state for one in state.engine_state.devices}


def asked_for(queue: str, models: Mapping[str, str | None]) -> str | None:
    """The model that the work in a GPU queue asks for; the workers of other queues may have any."""
    return models.get(queue) if on_gpu(queue) else None


def _unserved(states: Sequence[WorkerState], models: Mapping[str, str | None]) -> tuple[Unserved, ...]:
    reasons = {name: reason for name in sorted(models) if (reason := why_unserved(name, states, models))}
    ready = services().store.statistics.ready(list(reasons)) if reasons else {}
    return tuple(
        Unserved(queue=name, model=asked_for(name, models), ready=count, reason=reasons[name])
        for name, count in ready.items()
        if count
    )


def _breaker(found: BreakerState) -> Breaker:
    shown = found.model_dump(exclude={"since_ms", "probe_at_ms"})
    probe = None if found.probe_at_ms is None else _time(found.probe_at_ms)
    return Breaker(**shown, since=_time(found.since_ms), next_probe=probe)


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _gpus(found: Iterable[Device]) -> Gpus | None:
    """How many there are and what is used of them, None where none is known."""
    shares = [None if one.utilization_percent is None else one.utilization_percent / 100 for one in found]
    measured = [share for share in shares if share is not None]
    return Gpus(total=len(shares), used=round(sum(measured), 3) if measured else None) if shares else None


def _active(job: Job, worker: str, now_ms: int) -> ActiveJob:
    return ActiveJob(
        worker=worker,
        start_time=_time(job.started_at_ms),
        runtime_s=max(0, now_ms - job.started_at_ms) / 1000,
        **job.model_dump(exclude={"started_at_ms"}),
    )


def _worker(state: WorkerState) -> Worker:
    shown = state.model_dump(include=set(Worker.model_fields))
    return Worker(**shown, running=len(state.jobs))


def _cores(state: WorkerState) -> float | None:
    return None if state.cpu_percent is None else state.cpu_percent / 100


def _capacity(total: Sequence[float | None], used: Sequence[float | None]) -> Capacity | None:
    """The sums of what was measured, None when nothing was."""
    had, taken = ([value for value in values if value is not None] for values in (total, used))
    return Capacity(total=round(sum(had), 3), used=round(sum(taken), 3)) if had and taken else None
