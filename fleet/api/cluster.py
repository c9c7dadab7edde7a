"""/v1/jobs, /v1/cluster, /v1/queues and /v1/stats."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from flask import Response
from pydantic import Field

from fleet.api.replies import reply
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.dispatch import COUNCIL_QUEUE
from fleet.models import Model, Role
from fleet.store.statistics import Stats
from fleet.store.workers import Job, WorkerState

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
    pool: str
    slots: int = Field(description="How many jobs it runs at once")
    queues: tuple[str, ...] = Field(description="What it takes jobs from; none while it ends")
    engine: str | None = Field(None, description="What the agents think with, where it serves them")
    model: str | None = None
    running: int
    completed: int = Field(description="Jobs ended since its start")
    memory_mb: float | None = Field(None, description="Resident memory of its processes, in MiB")
    cpu_percent: float | None = Field(None, description="Of its processes; 100 is one core")


class Capacity(Model):
    """What the workers' machines have, and what the workers use of it."""

    total: float
    used: float


class JobCounts(Model):
    active: int
    completed: int = Field(description="By the workers that run now, since the start of each")


class Cluster(Model):
    """Only what was measured; what was not is absent."""

    workers: tuple[Worker, ...]
    nodes: int = Field(description="Machines with a worker")
    cpus: Capacity | None = None
    memory_mb: Capacity | None = None
    jobs: JobCounts


class Queue(Model):
    queue: str
    ready: int = Field(description="Jobs that wait")
    running: int
    workers: int = Field(description="How many take jobs from it")


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
    return reply(
        Cluster(
            workers=tuple(map(_worker, states)),
            nodes=len(hosts),
            cpus=_capacity([one.host_cpus for one in hosts], [_cores(one) for one in states]),
            memory_mb=_capacity([one.host_memory_mb for one in hosts], [one.memory_mb for one in states]),
            jobs=JobCounts(
                active=sum(len(state.jobs) for state in states), completed=sum(state.completed for state in states)
            ),
        )
    )


@cluster.operation(
    "GET",
    "/queues",
    Operation(
        summary="How much waits and runs in each queue",
        description="The agents' queue, the council's, and every other that a worker takes jobs from.",
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
    return reply(services().store.statistics.read())


def queues(states: Sequence[WorkerState]) -> tuple[Queue, ...]:
    """The queues that there have to be, and those that these workers take jobs from."""
    names = {services().settings.agent_queue, COUNCIL_QUEUE}.union(*(state.queues for state in states))
    ready = services().store.statistics.ready(sorted(names))
    return tuple(_queue(name, count, states) for name, count in ready.items())


def _active(job: Job, worker: str, now_ms: int) -> ActiveJob:
    return ActiveJob(
        worker=worker,
        start_time=datetime.fromtimestamp(job.started_at_ms / 1000, UTC),
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


def _queue(name: str, ready: int, states: Sequence[WorkerState]) -> Queue:
    running = sum(job.queue == name for state in states for job in state.jobs)
    return Queue(queue=name, ready=ready, running=running, workers=sum(name in state.queues for state in states))
