"""The Celery application that benchmarks/chord.py measures, on the backend that BENCH_BACKEND names."""

import os

from celery import Celery

URL = os.environ["BENCH_URL"]
DURABLE = os.environ["BENCH_BACKEND"] == "durable"

app = Celery("bench", broker=URL, backend=f"fleet.valkey.backend:Backend+{URL}" if DURABLE else URL)
app.conf.update(
    broker_connection_retry_on_startup=True, task_acks_late=True, worker_prefetch_multiplier=4, result_expires=600
)
if DURABLE:
    from fleet import valkey

    valkey.install(app)


@app.task(name="member")
def member(number: int) -> int:
    return number


@app.task(name="body")
def body(numbers: list[int]) -> int:
    return sum(numbers)
