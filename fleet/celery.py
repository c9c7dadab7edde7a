"""The Celery application: `celery -A fleet worker -Q agents,council`."""

from typing import Any

from celery import Celery
from celery.signals import setup_logging

from fleet import telemetry
from fleet.valkey import install

app = Celery("fleet")
app.config_from_object("celeryconfig")
install(app, sweep_queues={"council"})
app.steps["consumer"].add("fleet.tasks.watchdog:Watchdog")
app.steps["worker"].add("fleet.tasks.reporter:Reporter")


@setup_logging.connect  # type: ignore[untyped-decorator]
def _setup_logging(**_: Any) -> None:
    telemetry.configure()
