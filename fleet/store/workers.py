"""What each worker says about itself, forgotten 10 s after it last said so."""

from typing import Any

import redis

from fleet.models import Model, Role
from fleet.store import base

TTL_S = 10
_INDEX = "fleet:workers"
_FORGET_S = 3600  # an id that never reported again leaves the index after this


class Job(Model):
    """A Celery task that a worker runs; what it is about, where it is an agent's part."""

    job_id: str
    name: str
    queue: str | None = None
    deliberation_id: str | None = None
    step: str | None = None
    agent_id: str | None = None
    role: Role | None = None
    task_id: str | None = None
    started_at_ms: int


class WorkerState(Model):
    """One worker's own view; all times are of ValKey's clock, and what could not be measured is None.

    `slots` is how many tasks it runs at once, `completed` how many it has ended, `memory_mb` (MiB) and `cpu_percent`
    (100 is one core) are of its process with its children; `host_…` is what its machine has.
    """

    worker: str
    host: str
    pid: int
    pool: str
    slots: int
    queues: tuple[str, ...]
    engine: str | None = None
    model: str | None = None
    jobs: tuple[Job, ...] = ()
    completed: int = 0
    memory_mb: float | None = None
    cpu_percent: float | None = None
    host_memory_mb: float | None = None
    host_cpus: int | None = None
    at_ms: int


class Workers:
    """The workers' reports. Raises redis.exceptions.RedisError when ValKey is away."""

    def __init__(self, client: "redis.Redis"):
        self._client = client

    def now_ms(self) -> int:
        """The time that the reports go by."""
        return base.now_ms(self._client)

    def report(self, state: WorkerState) -> None:
        """Keeps the state for 10 s; call it more often than that."""
        with self._client.pipeline() as pipeline:
            pipeline.set(_key(state.worker), state.dump(), ex=TTL_S)
            pipeline.zadd(_INDEX, {state.worker: state.at_ms})
            pipeline.zremrangebyscore(_INDEX, "-inf", state.at_ms - _FORGET_S * 1000)
            pipeline.execute()

    def remove(self, worker: str) -> None:
        """Forgets a worker that stops."""
        with self._client.pipeline() as pipeline:
            pipeline.delete(_key(worker))
            pipeline.zrem(_INDEX, worker)
            pipeline.execute()

    def list(self) -> list[WorkerState]:
        """The workers that reported within the last 10 s, in the order of their names."""
        names: Any = self._client.zrange(_INDEX, 0, -1)
        documents: Any = self._client.mget([_key(name) for name in sorted(names)]) if names else []
        return [WorkerState.model_validate_json(document) for document in documents if document]


def _key(worker: str) -> str:
    return f"fleet:worker:{worker}"
