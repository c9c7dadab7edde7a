"""The Celery application of a GPU worker: `celery -A workers.gpu worker -Q gpu`."""

from fleet.celery import NO_GPU_QUEUES, WATCHDOG, app
from fleet.settings import settings_or_exit

app.conf.include = ["fleet.tasks.agent"]
app.conf.worker_pool = "threads"  # all tasks share one engine, which batches them
app.conf.worker_concurrency = settings_or_exit().gpu_slots
app.steps["consumer"].discard(WATCHDOG)  # the council's, and it needs Neo4j
app.steps["worker"].discard(NO_GPU_QUEUES)
app.steps["worker"].add("workers.gpu.bootstep:EngineHost")

__all__ = ["app"]
