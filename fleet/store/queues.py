"""The queues that agents' work was ever sent to."""

from typing import cast

import redis

from fleet.store import base


class Queues:
    """Raises redis.exceptions.RedisError when ValKey is away."""

    def __init__(self, client: "redis.Redis"):
        self._client = client

    def models(self) -> dict[str, str | None]:
        """Queue → the model that the work in it asks for, None for whichever its workers have."""
        found = cast(dict[str, str], self._client.hgetall(base.QUEUES))
        return {queue: model or None for queue, model in found.items()}
