"""/metrics: what Prometheus scrapes, from ValKey alone, so that every replica says the same."""

from collections.abc import Iterator, Sequence

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from fleet.api.cluster import Queue, queues
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.store.statistics import Stats
from fleet.store.workers import WorkerState

metrics = Section("metrics", "For Prometheus; needs a key with the scope read", prefix=None)

_FINAL = ("completed", "partial", "failed", "cancelled")


class Fleet(Collector):
    """One scrape. Sizes are in bytes, what counts up ends in `_total`."""

    def __init__(self, stats: Stats, queues: Sequence[Queue], workers: Sequence[WorkerState]):
        self._stats, self._queues, self._workers = stats, queues, workers

    def collect(self) -> Iterator[Metric]:
        yield from self._deliberations()
        yield from self._of_queues()
        yield from self._of_workers()

    def _deliberations(self) -> Iterator[Metric]:
        totals = self._stats.totals
        yield CounterMetricFamily("fleet_deliberations_accepted", "Deliberations accepted", totals.accepted)
        finished = CounterMetricFamily("fleet_deliberations_finished", "Final ones by status", labels=["status"])
        for status in _FINAL:
            finished.add_metric([status.upper()], getattr(totals, status))
        yield finished
        yield CounterMetricFamily("fleet_dead_letters", "Messages that could not be processed", totals.dead_letters)
        yield GaugeMetricFamily("fleet_deliberations_in_progress", "An agent has started", self._stats.in_progress)
        yield GaugeMetricFamily("fleet_deliberations_pending", "No agent has started yet", self._stats.pending)
        yield GaugeMetricFamily("fleet_events", "Entries of the event log", self._stats.events)

    def _of_queues(self) -> Iterator[Metric]:
        for name, meaning in (
            ("ready", "Jobs that wait"),
            ("running", "Jobs that run"),
            ("workers", "Workers that take jobs from the queue"),
        ):
            family = GaugeMetricFamily(f"fleet_queue_{name}", meaning, labels=["queue"])
            for queue in self._queues:
                family.add_metric([queue.queue], getattr(queue, name))
            yield family

    def _of_workers(self) -> Iterator[Metric]:
        slots = GaugeMetricFamily("fleet_worker_slots", "Jobs that a worker runs at once", labels=["worker"])
        completed = CounterMetricFamily("fleet_worker_jobs_completed", "Jobs ended since its start", labels=["worker"])
        memory = GaugeMetricFamily("fleet_worker_memory_bytes", "Resident memory, where measured", labels=["worker"])
        for worker in self._workers:
            slots.add_metric([worker.worker], worker.slots)
            completed.add_metric([worker.worker], worker.completed)
            if worker.memory_mb is not None:
                memory.add_metric([worker.worker], worker.memory_mb * 2**20)
        yield from (slots, completed, memory)


@metrics.operation(
    "GET",
    "/metrics",
    Operation(
        summary="The fleet's figures as Prometheus reads them",
        query=None,
        answers={200: Answer("Prometheus's text format", media_type="text/plain")},
    ),
)
def scrape() -> Response:
    store = services().store
    workers = store.workers.list()
    registry = CollectorRegistry()
    registry.register(Fleet(store.statistics.read(), queues(workers), workers))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
