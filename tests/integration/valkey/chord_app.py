"""The Celery application of the chord tests. Tasks write what they do to a file, which no crash of ValKey can lose."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, chord, group
from celery.exceptions import Reject
from celery.result import allow_join_result

from fleet import valkey
from fleet.valkey import transport

FOLDER = Path(os.environ.get("TEST_FOLDER", "."))
BACKEND = os.environ.get("TEST_BACKEND_CLASS", "fleet.valkey.backend:Backend")
LEASE_S = float(os.environ.get("TEST_LEASE", "2"))

transport.install()  # for both backends, so that nothing else differs


def make_app(url: str, durable: bool) -> Celery:
    app = Celery("chord_app", broker=url, backend=f"{BACKEND}+{url}" if durable else url)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        task_default_queue="chord-test",
        task_allow_error_cb_on_chord_header=False,
        broker_connection_max_retries=None,
        broker_transport_options={
            **transport.BROKER_TRANSPORT_OPTIONS,
            "visibility_timeout": 3,
            "unacked_restore_interval": 1,
        },
        result_backend_transport_options={
            "chord_lease": LEASE_S,
            "chord_grace": LEASE_S / 2,
            "chord_republish": LEASE_S,
        },
        worker_hijack_root_logger=False,
        task_track_started="TEST_TRACK_STARTED" in os.environ,
    )
    if os.environ.get("TEST_ACKS_LATE"):
        app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1)
    return app


app = make_app(os.environ.get("TEST_BROKER", "memory://"), durable=os.environ.get("TEST_BACKEND") != "stock")
if os.environ.get("TEST_BACKEND") == "durable":
    valkey.install(app, sweep_queues={os.environ.get("TEST_SWEEP_QUEUE", "chord-test")}, sweep_interval=0.3)


def note(event: str) -> None:
    fd = os.open(FOLDER / "trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, f"{event}\n".encode())
    finally:
        os.close(fd)


def wait_for(gate: str) -> None:
    while not (FOLDER / gate).exists():
        time.sleep(0.02)


@app.task(name="add")
def add(*numbers: int) -> int:
    return sum(numbers)


@app.task(name="identity")
def identity(value: Any) -> Any:
    return value


@app.task(name="total")
def total(numbers: list[int], extra: int = 0) -> int:
    return sum(numbers) + extra


@app.task(name="fail")
def fail(*_: Any, message: str = "boom") -> None:
    raise ValueError(message)


@app.task(name="quiet", ignore_result=True)
def quiet(value: Any) -> Any:
    return value


@app.task(name="noted")
def noted(value: Any, event: str, gate: str = "") -> Any:
    """Leaves a line `event start`, waits for the file `gate`, leaves a line `event end`."""
    note(f"{event} start {os.getpid()}")
    if gate:
        wait_for(gate)
    note(f"{event} end {value!r}")
    return value


@app.task(name="on_error")
def on_error(request: Any, exc: BaseException, _traceback: Any, event: str) -> None:
    note(f"{event} {request.id} {type(exc).__name__}")


@app.task(name="retried", bind=True, max_retries=3)
def retried(self: Any, value: Any, times: int, event: str, countdown: float = 0) -> Any:
    note(f"{event} try {self.request.retries}")
    if self.request.retries < times:
        raise self.retry(countdown=countdown)
    return value


@app.task(name="replaced_by_task", bind=True)
def replaced_by_task(self: Any, value: Any) -> Any:
    return self.replace(add.si(value if isinstance(value, int) else sum(value), 100))


@app.task(name="replaced_by_group", bind=True)
def replaced_by_group(self: Any, value: int) -> Any:
    return self.replace(group(add.si(value, 1), add.si(value, 2)))


@app.task(name="replaced_by_chord", bind=True)
def replaced_by_chord(self: Any, value: int) -> Any:
    return self.replace(chord([add.si(value, 1), add.si(value, 2)], total.s()))


@app.task(name="growing", bind=True)
def growing(self: Any, value: int) -> int:
    self.add_to_chord(add.si(value, 1000))
    return value


@app.task(name="joins_inside")
def joins_inside(value: int) -> int:
    with allow_join_result():
        return sum(group(add.si(value, 1), add.si(value, 2))().get(timeout=20))


@app.task(name="chord_inside")
def chord_inside(value: int) -> str:
    return str(chord([add.si(value, 1), add.si(value, 2)])(total.s()).id)


@app.task(name="rejected_once", bind=True, acks_late=True)
def rejected_once(_self: Any, value: Any, event: str) -> Any:
    note(f"{event} try")
    if not (FOLDER / f"{event}-rejected").exists():
        (FOLDER / f"{event}-rejected").touch()
        raise Reject("not now", requeue=True)
    return value


@app.task(name="kills_its_worker")
def kills_its_worker(value: Any, event: str, times: int) -> Any:
    """Dies with its process the first `times` times that it runs."""
    note(f"{event} start")
    if sum(line.startswith(f"{event} start") for line in (FOLDER / "trace").read_text().splitlines()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    note(f"{event} end")
    return value
