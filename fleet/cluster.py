"""What each worker says about itself. Every figure is measured; what was not is None."""

import shlex
from collections.abc import Mapping, Sequence

from pydantic import Field

from fleet.models import Model, Role

GPU_QUEUE = "gpu"
NONE_RUNS = "none is running"


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


class Device(Model):
    """A GPU, or an instance of one, as NVML sees it; memory in MiB, utilisation in percent."""

    uuid: str
    name: str
    memory_total_mb: float | None = None
    memory_used_mb: float | None = Field(None, description="By every process on it")
    utilization_percent: float | None = None


class EngineState(Model):
    """An engine inside a worker, as it says itself. Tokens and cache queries are totals since its start."""

    live: bool = Field(description="It answered within the last 20 s")
    running: int | None = Field(None, description="Requests in its batch")
    waiting: int | None = Field(None, description="Requests that wait for a place in it")
    kv_cache_usage: float | None = Field(None, ge=0, le=1, description="Part of its KV cache that is in use")
    prompt_tokens: int | None = None
    generation_tokens: int | None = None
    tokens_per_s: float | None = Field(None, description="Generated, since the report before")
    prefix_cache_queries: int | None = Field(None, description="Prompt tokens looked up in the prefix cache")
    prefix_cache_hits: int | None = Field(None, description="Those of them that were there")
    adapters: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()


class WorkerState(Model):
    """One worker's own view; all times are of ValKey's clock.

    `queues` is what it takes jobs from: none while it ends, or while its engine does not answer. `slots` is how many
    tasks it runs at once, `completed` how many it has ended, `memory_mb` (MiB) and `cpu_percent` (100 is one core) are
    of its process with its children; `host_…` is what its machine has.
    """

    worker: str
    host: str
    pid: int
    version: str | None = Field(None, description="Fleet's")
    pool: str
    slots: int
    queues: tuple[str, ...]
    engine: str | None = None
    model: str | None = None
    engine_state: EngineState | None = None
    jobs: tuple[Job, ...] = ()
    completed: int = 0
    memory_mb: float | None = None
    cpu_percent: float | None = None
    host_memory_mb: float | None = None
    host_cpus: int | None = None
    at_ms: int

    @property
    def hangs(self) -> bool:
        """It has an engine, which does not answer."""
        return self.engine_state is not None and not self.engine_state.live


def on_gpu(queue: str) -> bool:
    """Whether a queue is for GPU workers: `gpu` for the default model, `gpu.…` for another one."""
    return queue == GPU_QUEUE or queue.startswith(f"{GPU_QUEUE}.")


def start_command(queue: str, model: str | None = None) -> str:
    """What starts a worker for a queue; `model` is what the work in a GPU queue asks for."""
    if not on_gpu(queue):
        return f"celery -A fleet worker -Q {queue}"
    given = f"FLEET_GPU_MODEL={shlex.quote(model)} " if model else ""
    return f"{given}celery -A workers.gpu worker -Q {queue}"


def why_unserved(queue: str, states: Sequence[WorkerState], models: Mapping[str, str | None]) -> str | None:
    """Why no worker takes jobs from a queue, None when one does; `models` is what the work in each queue asks for."""
    if any(queue in state.queues for state in states):
        return None
    hanging = [state.worker for state in states if state.hangs and _is_for(queue, state, models)]
    return f"the engine of {' and '.join(hanging)} does not answer" if hanging else NONE_RUNS


def _is_for(queue: str, state: WorkerState, models: Mapping[str, str | None]) -> bool:
    """Whether a GPU worker that takes from no queue would take from this one, as far as its model tells."""
    if queue == GPU_QUEUE:
        return state.model not in [model for name, model in models.items() if name != queue and on_gpu(name)]
    return on_gpu(queue) and state.model == models.get(queue)
