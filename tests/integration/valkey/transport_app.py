"""A Celery application whose tasks write what they do to a file, which no crash of ValKey or of a worker can lose."""

import os
import time
from pathlib import Path

if skew_s := float(os.environ.get("CLOCK_SKEW_S", "0")):
    true_time = time.time
    time.time = lambda: true_time() + skew_s  # before anyone imports the function: a machine whose clock is wrong

from celery import Celery

from fleet.valkey.transport import BROKER_TRANSPORT_OPTIONS, install

install()

FOLDER = Path(os.environ["TEST_FOLDER"])
LEASE_S = 3

app = Celery("transport_app", broker=os.environ["TEST_BROKER"])
app.conf.update(
    broker_transport_options={**BROKER_TRANSPORT_OPTIONS, "visibility_timeout": LEASE_S, "unacked_restore_interval": 1},
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    task_acks_late=True,
    task_ignore_result=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_default_queue="transport-test",
)


def _note(event: str, name: str) -> None:
    line = f"{event} {name} {os.environ.get('NODE', '-')}\n"
    fd = os.open(FOLDER / "trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


@app.task(name="work")
def work(name: str, seconds: float = 0.0) -> None:
    _note("start", name)
    time.sleep(seconds)
    _note("end", name)


@app.task(name="wait_for_gate")
def wait_for_gate(name: str, gate: str) -> None:
    """Runs until the test creates the file `gate`; a gate may be the node's own."""
    _note("start", name)
    while not (FOLDER / gate.format(node=os.environ.get("NODE", "-"))).exists():
        time.sleep(0.02)
    _note("end", name)
