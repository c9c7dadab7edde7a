"""What each worker says about itself, forgotten 10 s after it last said so."""

from typing import Any

import redis

from fleet.cluster import WorkerState
from fleet.store import base

TTL_S = 10
_INDEX = "fleet:workers"
_FORGET_S = 3600  # an id that never reported again leaves the index after this


class Workers:
    """The workers' reports. Raises redis.exceptions.RedisError when ValKey is away."""

    def __init__(self, client: "redis.Redis"):
        self._client = client

    def now_ms(self) -> int:
        """The time that the reports go by."""
        return base.now_ms(self._client)

    def report(self, state: WorkerState) -> None:
        """Keeps the state for 10 s; call it more often than that."""
        with self._client.pipeline() as pipeline:
            pipeline.set(_key(state.worker), state.kept(), ex=TTL_S)
            pipeline.zadd(_INDEX, {state.worker: state.at_ms})
            pipeline.zremrangebyscore(_INDEX, "-inf", state.at_ms - _FORGET_S * 1000)
            pipeline.execute()

    def remove(self, worker: str) -> None:
        """Forgets a worker that stops."""
        with self._client.pipeline() as pipeline:
            pipeline.delete(_key(worker))
            pipeline.zrem(_INDEX, worker)
            pipeline.execute()

    def list(self) -> list[WorkerState]:
        """The workers that reported within the last 10 s, in the order of their names."""
        names: Any = self._client.zrange(_INDEX, 0, -1)
        documents: Any = self._client.mget([_key(name) for name in sorted(names)]) if names else []
        return [WorkerState.read(document) for document in documents if document]


def _key(worker: str) -> str:
    return f"fleet:worker:{worker}"
