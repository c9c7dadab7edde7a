"""What the agents write while they write it, over ValKey's Pub/Sub: who does not listen misses it, nothing is kept."""

from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fleet.store.base import Scripts

_PREFIX = "fleet:tokens:"
_SUBSCRIBED = ("subscribe", "psubscribe")
_TIMEOUT_S = 2.0


class Tokens:
    """Thread-safe. On connections of its own, since nothing may be sent twice: a message would be heard twice."""

    def __init__(self, client: "redis.Redis"):
        pool = client.connection_pool
        given = {**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
        given |= {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
        self._client = redis.Redis(connection_pool=redis.ConnectionPool(pool.connection_class, **given))
        self._scripts = Scripts(self._client)

    def publish(self, messages: Sequence[tuple[str, str]]) -> int:
        """Sends payloads, each with its deliberation's id, in order; returns how many somebody heard."""
        sent = [text for id, payload in messages for text in (_PREFIX + id, payload)]
        return int(self._scripts.run("publish_tokens", [], sent))

    def subscribe(self, deliberation_id: str | None = None) -> "Subscription":
        """Hears one deliberation, or all; everything that is published after this has returned."""
        return Subscription(self._client, deliberation_id)

    def close(self) -> None:
        self._client.close()


class Subscription:
    """Ends with redis.exceptions.RedisError when ValKey is away, or had to drop a reader that was too slow."""

    def __init__(self, client: "redis.Redis", deliberation_id: str | None):
        self._pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]
        try:
            if deliberation_id is None:
                self._pubsub.psubscribe(f"{_PREFIX}*")
            else:
                self._pubsub.subscribe(_PREFIX + deliberation_id)
            self._confirmed()
        except BaseException:
            self.close()
            raise

    def read(self, timeout_s: float, most: int = 200) -> list[str]:
        """The payloads that are there, waiting up to `timeout_s` for the first one."""
        payloads: list[str] = []
        while len(payloads) < most and (message := self._pubsub.get_message(timeout=0 if payloads else timeout_s)):
            if message["type"] in self._pubsub.PUBLISH_MESSAGE_TYPES:
                payloads.append(message["data"])
        return payloads

    def close(self) -> None:
        self._pubsub.close()

    def _confirmed(self) -> None:
        message: Any = self._pubsub.get_message(timeout=_TIMEOUT_S)
        if message is None or message["type"] not in _SUBSCRIBED:
            raise redis.exceptions.TimeoutError(f"no answer within {_TIMEOUT_S:g} s")
