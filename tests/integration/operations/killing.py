"""Fleet's Celery application, in which some descriptions of a task kill what reads them: the process, by SIGKILL.

Its import changes Fleet in the process that imports it, so only workers do, never a test.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

from fleet.celery import app
from fleet.engines.base import Completion, Generation
from fleet.engines.scripted import ScriptedEngine
from fleet.tasks import council
from tests.integration.operations.words import ANSWERING, DECIDING, RECORDING

# What a dead worker held comes back sooner than in production.
app.conf.broker_transport_options = {
    **app.conf.broker_transport_options,
    "visibility_timeout": 7,
    "unacked_restore_interval": 1,
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _deadly(call: Callable[..., Any], word: str, text: Callable[..., str]) -> Callable[..., Any]:
    def calling(*args: Any, **kwargs: Any) -> Any:
        if word in text(*args):
            die()
        return call(*args, **kwargs)

    return calling


_generate = ScriptedEngine.generate


def generate(self: ScriptedEngine, request: Generation) -> Completion:
    if ANSWERING in str(request.tags["task"]):
        die()
    return _generate(self, request)


ScriptedEngine.generate = generate  # type: ignore[method-assign]
council._decide = _deadly(council._decide, DECIDING, lambda task, *_: task.task_description)
council._recorded = _deadly(council._recorded, RECORDING, lambda decision: decision.task.task_description)
