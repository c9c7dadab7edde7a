"""The runtime of this worker process."""

import functools
import os
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import structlog
from celery.signals import task_postrun, task_prerun, worker_process_shutdown, worker_shutdown
from celery.worker import state
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError, TimeoutError

from fleet import telemetry
from fleet.engines.base import HostedEngine
from fleet.settings import get_settings
from fleet.tasks.runtime import Runtime

log = structlog.get_logger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()
_runtime: Runtime | None = None
_hosted: HostedEngine | None = None


def runtime() -> Runtime:
    """The one of this process, made at the first call."""
    global _runtime
    with _lock:
        if _runtime is None:
            _runtime = Runtime(get_settings())
        return _runtime


def host(engine: HostedEngine) -> None:
    """This process's runtime has this engine; to be called before anything asks for it."""
    global _runtime, _hosted
    with _lock:
        assert _runtime is None, "the runtime has an engine already"
        _runtime, _hosted = Runtime(get_settings(), engine), engine


def hosted() -> HostedEngine | None:
    """The engine that is part of this process, if there is one."""
    return _hosted


def leaving() -> bool:
    """Whether this worker was told to end; one whose engine died ends too, but of what it ran."""
    flags = (state.should_stop, state.should_terminate)
    return any(flag is not None and flag is not False and flag != os.EX_SOFTWARE for flag in flags)


def patient(call: Callable[P, T]) -> Callable[P, T]:
    """Calls again for as long as ValKey is away: without it there is nothing else to do, and nothing is to be lost.

    What is called has to be safe to repeat.
    """

    @functools.wraps(call)
    def calling(*args: P.args, **kwargs: P.kwargs) -> T:
        pause_s = 0.1
        while True:
            try:
                return call(*args, **kwargs)
            except (ConnectionError, TimeoutError, OperationalError) as error:
                log.warning("valkey.away", reason=str(error), again_in_s=pause_s)
                time.sleep(pause_s)
                pause_s = min(5.0, pause_s * 2)

    return calling


@worker_shutdown.connect  # type: ignore[untyped-decorator]
@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    if _runtime is not None:
        _runtime.close()


@task_prerun.connect  # type: ignore[untyped-decorator]
def _bind_ids(task: Any, kwargs: dict[str, Any], **_: Any) -> None:
    telemetry.bind_task(task.request, kwargs.get("about") or {})


@task_postrun.connect  # type: ignore[untyped-decorator]
def _forget_ids(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()
