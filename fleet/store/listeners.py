"""What each listener says about itself, forgotten 10 s after it last said so."""

from typing import Any, Literal

import redis

from fleet.models import Model

TTL_S = 10
_INDEX = "fleet:listeners"


class ListenerState(Model):
    """One listener's own view of NATS: `streams` and `consumers` by name, `backlog` in events not yet relayed."""

    listener_id: str
    nats: Literal["connected", "away"]
    streams: dict[str, Literal["ok", "differs", "missing"]]
    consumers: dict[str, Literal["ok", "differs", "missing"]]
    relay: Literal["leader", "standby"]
    backlog: int
    at_ms: int


class Listeners:
    def __init__(self, client: "redis.Redis"):
        self._client = client

    def report(self, state: ListenerState) -> None:
        """Keeps the state for 10 s; call it more often than that."""
        with self._client.pipeline() as pipeline:
            pipeline.set(_key(state.listener_id), state.kept(), ex=TTL_S)
            pipeline.zadd(_INDEX, {state.listener_id: state.at_ms})
            # An hour, not the TTL: the listeners' clocks need not agree.
            pipeline.zremrangebyscore(_INDEX, "-inf", state.at_ms - 3_600_000)
            pipeline.execute()

    def remove(self, listener_id: str) -> None:
        """Forgets a listener that stops."""
        self._client.delete(_key(listener_id))
        self._client.zrem(_INDEX, listener_id)

    def list(self) -> list[ListenerState]:
        """The listeners that reported within the last 10 s, in the order of their ids."""
        ids: Any = self._client.zrange(_INDEX, 0, -1)
        documents: Any = self._client.mget([_key(id) for id in sorted(ids)]) if ids else []
        return [ListenerState.read(document) for document in documents if document]


def _key(id: str) -> str:
    return f"fleet:listener:{id}"
