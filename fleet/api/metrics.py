"""/metrics: what Prometheus scrapes, from ValKey alone, so that every replica says the same."""

from collections.abc import Iterator, Sequence
from typing import Any

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from fleet.api.cluster import Queue, devices, queues
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.cluster import WorkerState
from fleet.store.breakers import BreakerState
from fleet.store.statistics import Stats

metrics = Section("metrics", "For Prometheus; needs a key with the scope read", prefix=None)

_FINAL = ("completed", "partial", "failed", "cancelled")
_MIB = 2**20
_BREAKER_STATES = ("closed", "half-open", "open")
# vLLM's own names and meanings, so that its dashboards find them; the fields of EngineState.
_ENGINE_GAUGES = {
    "running": ("vllm:num_requests_running", "Number of requests in model execution batches."),
    "waiting": ("vllm:num_requests_waiting", "Number of requests waiting to be processed."),
    "kv_cache_usage": ("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."),
}
_ENGINE_COUNTERS = {
    "prompt_tokens": ("vllm:prompt_tokens", "Number of prefill tokens processed."),
    "generation_tokens": ("vllm:generation_tokens", "Number of generation tokens processed."),
    "prefix_cache_queries": (
        "vllm:prefix_cache_queries",
        "Prefix cache queries, in terms of number of queried tokens.",
    ),
    "prefix_cache_hits": ("vllm:prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens."),
}


class Fleet(Collector):
    """One scrape. Sizes are in bytes, what counts up ends in `_total`."""

    def __init__(
        self, stats: Stats, queues: Sequence[Queue], workers: Sequence[WorkerState], breakers: Sequence[BreakerState]
    ):
        self._stats, self._queues, self._workers, self._breakers = stats, queues, workers, breakers

    def collect(self) -> Iterator[Metric]:
        yield from self._deliberations()
        yield from self._of_queues()
        yield from self._of_workers()
        yield from filter(_has_samples, (*self._of_engines(), *self._of_devices(), *self._of_breakers()))

    def _deliberations(self) -> Iterator[Metric]:
        totals = self._stats.totals
        yield CounterMetricFamily("fleet_deliberations_accepted", "Deliberations accepted", totals.accepted)
        finished = CounterMetricFamily("fleet_deliberations_finished", "Final ones by status", labels=["status"])
        for status in _FINAL:
            finished.add_metric([status.upper()], getattr(totals, status))
        yield finished
        yield CounterMetricFamily("fleet_dead_letters", "Messages that could not be processed", totals.dead_letters)
        refused = CounterMetricFamily("fleet_refused", "Submissions that were not accepted", labels=["reason"])
        for reason in ("full", "rate"):
            refused.add_metric([reason], getattr(totals, f"refused_{reason}"))
        yield refused
        yield GaugeMetricFamily("fleet_deliberations_open", "Accepted and not final", self._stats.open)
        if self._stats.limit:
            yield GaugeMetricFamily("fleet_deliberations_limit", "How many may be open", self._stats.limit)
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
                memory.add_metric([worker.worker], worker.memory_mb * _MIB)
        yield from (slots, completed, memory)

    def _of_engines(self) -> Iterator[Metric]:
        engines = [(worker, worker.engine_state) for worker in self._workers if worker.engine_state]
        labels = ["worker", "model_name"]
        live = GaugeMetricFamily("fleet_engine_live", "1 while the worker's engine answers, else 0", labels=labels)
        for worker, engine in engines:
            live.add_metric(_names(worker), engine.live)
        yield live
        for kind, figures in ((GaugeMetricFamily, _ENGINE_GAUGES), (CounterMetricFamily, _ENGINE_COUNTERS)):
            for field, (name, meaning) in figures.items():
                family = kind(name, meaning, labels=labels)
                for worker, engine in engines:
                    _add(family, _names(worker), getattr(engine, field))
                yield family

    def _of_devices(self) -> Iterator[Metric]:
        labels = ["uuid", "device"]
        total = GaugeMetricFamily("fleet_gpu_memory_total_bytes", "Memory that the GPU has", labels=labels)
        used = GaugeMetricFamily("fleet_gpu_memory_used_bytes", "Memory in use, by every process", labels=labels)
        busy = GaugeMetricFamily("fleet_gpu_utilization_ratio", "Share of time in which it computed", labels=labels)
        for uuid, one in devices(self._workers).items():
            _add(total, [uuid, one.name], one.memory_total_mb, _MIB)
            _add(used, [uuid, one.name], one.memory_used_mb, _MIB)
            _add(busy, [uuid, one.name], one.utilization_percent, 0.01)
        yield from (total, used, busy)

    def _of_breakers(self) -> Iterator[Metric]:
        labels = ["endpoint"]
        state = GaugeMetricFamily("fleet_breaker_state", "0 closed, 1 half-open, 2 open: work waits", labels=labels)
        failures = GaugeMetricFamily("fleet_breaker_failures", "Failures of the server in a row", labels=labels)
        waiting = GaugeMetricFamily("fleet_breaker_waiting", "Deliberations that wait for the server", labels=labels)
        for one in self._breakers:
            state.add_metric([one.endpoint], _BREAKER_STATES.index(one.state))
            failures.add_metric([one.endpoint], one.failures)
            waiting.add_metric([one.endpoint], one.waiting)
        yield from (state, failures, waiting)


def _names(worker: WorkerState) -> list[str]:
    return [worker.worker, worker.model or ""]


def _add(family: Any, labels: list[str], value: float | None, unit: float = 1) -> None:
    """Adds a sample, if there is a measurement."""
    if value is not None:
        family.add_metric(labels, value * unit)


def _has_samples(family: Metric) -> bool:
    return bool(family.samples)


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
    registry.register(
        Fleet(store.statistics.read(services().settings.queue_limit), queues(workers), workers, store.breakers.list())
    )
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
