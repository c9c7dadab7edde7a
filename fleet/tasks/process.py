"""The runtime of this worker process."""

import threading
from typing import Any

import structlog
from celery.signals import task_prerun, worker_process_shutdown, worker_shutdown

from fleet.settings import get_settings
from fleet.tasks.runtime import Runtime

_lock = threading.Lock()
_runtime: Runtime | None = None


def runtime() -> Runtime:
    """The one of this process, made at the first call."""
    global _runtime
    with _lock:
        if _runtime is None:
            _runtime = Runtime(get_settings())
        return _runtime


@worker_shutdown.connect  # type: ignore[untyped-decorator]
@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    if _runtime is not None:
        _runtime.close()


@task_prerun.connect  # type: ignore[untyped-decorator]
def _bind_ids(task_id: str, **_: Any) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(celery_task_id=task_id)
