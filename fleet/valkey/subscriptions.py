"""Pub/Sub subscriptions only for as long as somebody waits for a result."""

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

    def _wait_for_pending(self, result: Any, **options: Any) -> Iterator[None]:
        leaves = [leaf for leaf in _leaves(result) if not getattr(leaf, "_cache", None)]
        stock: Any = super()
        try:
            for leaf in leaves:
                stock.add_pending_result(leaf)
            yield from stock._wait_for_pending(result, **options)
        finally:
            for leaf in leaves:
                stock.remove_pending_result(leaf)
