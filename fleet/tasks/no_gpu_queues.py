"""Keeps workers without an engine for them away from the queues of the GPU workers."""

from typing import Any

from celery import bootsteps

from fleet.cluster import on_gpu, start_command
from fleet.settings import refuse


class NoGpuQueues(bootsteps.Step):  # type: ignore[misc]
    """Refuses to start a worker that would take GPU work and has nothing to do it with."""

    def __init__(self, parent: Any, **kwargs: Any):
        super().__init__(parent, **kwargs)
        if wrong := sorted(filter(on_gpu, parent.app.amqp.queues.consume_from)):
            refuse("worker", f"there is no engine here for the queue {wrong[0]}: use `{start_command(wrong[0])}`")
