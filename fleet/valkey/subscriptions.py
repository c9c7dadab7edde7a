"""Pub/Sub subscriptions only for as long as somebody waits for a result."""

import time
from collections.abc import Iterator
from typing import Any

from celery.result import ResultSet


def _leaves(result: Any) -> Iterator[Any]:
    if isinstance(result, ResultSet):
        for child in result.results:
            yield from _leaves(child)
    else:
        yield result


class SubscribeWhileWaiting:
    """Mixin before Celery's `RedisBackend`, which subscribes to every task sent and keeps most of it for ever.

    The price: a callback given to `AsyncResult.then` is called while somebody waits for that result, not before.
    """

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Celery subscribes here, before it publishes. Whoever waits reads the stored result first: nothing is lost."""

    def add_pending_result(self, result: Any, **_: Any) -> Any:
        return result

    def add_pending_results(self, results: list[Any], **_: Any) -> list[Any]:
        return results

    def _wait_for_pending(self, result: Any, on_interval: Any = None, **options: Any) -> Iterator[None]:
        leaves = [leaf for leaf in _leaves(result) if not getattr(leaf, "_cache", None)]
        stock: Any = super()
        look = _Look(self, result, on_interval)
        try:
            for leaf in leaves:
                stock.add_pending_result(leaf)
            yield from stock._wait_for_pending(result, on_interval=look, **options)
        finally:
            for leaf in leaves:
                stock.remove_pending_result(leaf)


class _Look:
    """Reads the stored results after the first message of a wait, which confirms its subscription, then every second.

    The server may read the subscription, sent first, after the query for what is stored: they are on two connections.
    A result that came in between would be waited for until the timeout.
    """

    def __init__(self, backend: Any, result: Any, on_interval: Any):
        self._backend, self._result, self._on_interval = backend, result, on_interval
        self._next = 0.0

    def __call__(self) -> None:
        if time.monotonic() >= self._next and not self._result.on_ready.ready:
            self._next = time.monotonic() + 1
            self._backend.result_consumer.on_wait_for_pending(self._result)
        if self._on_interval:
            self._on_interval()
