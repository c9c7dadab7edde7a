"""The Celery application: `celery -A fleet worker -Q agents,council`."""

from typing import Any

import click
from celery import Celery
from celery.signals import before_task_publish, celeryd_init, setup_logging

from fleet import telemetry
from fleet.models import FORMAT, FORMAT_HEADER
from fleet.settings import get_settings, settings_or_exit
from fleet.valkey import install
from fleet.valkey.signing import Signer

# What a GPU worker leaves out.
WATCHDOG = "fleet.tasks.watchdog:Watchdog"
NO_GPU_QUEUES = "fleet.tasks.no_gpu_queues:NoGpuQueues"

app = Celery("fleet")
app.config_from_object("celeryconfig")
_keys = settings_or_exit().signing_keys
install(app, sweep_queues={"council"}, signer=Signer(_keys) if _keys else None)
app.steps["consumer"].add(WATCHDOG)
app.steps["worker"].update({"fleet.tasks.reporter:Reporter", NO_GPU_QUEUES})


@setup_logging.connect  # type: ignore[untyped-decorator]
def _setup_logging(**_: Any) -> None:
    """Celery then sets up nothing of its own."""
    telemetry.configure(_command() or "worker")


@celeryd_init.connect  # type: ignore[untyped-decorator]
def _leave_out_the_banner(instance: Any, **_: Any) -> None:
    """It is for people; a program that reads the log has the event that the worker is ready."""
    instance.quiet = instance.quiet or get_settings().log_format == "json"


@before_task_publish.connect  # type: ignore[untyped-decorator]
def _hand_on_the_context(headers: dict[str, Any], **_: Any) -> None:
    """What a task is sent for is bound again where it runs; its format is for a worker of another version."""
    headers.setdefault(FORMAT_HEADER, FORMAT)
    for name, value in telemetry.carried().items():
        headers.setdefault(name, value)


def _command() -> str | None:
    """What `celery -A fleet …` was asked for; None when another program imports this."""
    context = click.get_current_context(silent=True)
    return context.invoked_subcommand if context else None


# Now, since a worker warns before it sends a signal, and Flower sends none.
if (_daemon := _command()) in ("worker", "beat", "flower"):
    telemetry.configure(_daemon)
