"""Whether what ValKey was given is on its disk: FLEET_DURABILITY says whether accepting work waits for that."""

from typing import Any

import redis
from redis.exceptions import ConnectionError, ResponseError

from fleet.errors import NotKept

_MARK = "fleet:durable"
_TIMEOUT_MS = 5_000
_NO_FILE = "FLEET_DURABILITY is fsync, and ValKey keeps no append-only file: set its appendonly to yes"


class Durability:
    """Waits for ValKey's disk, if it is `wanted`; raises redis.exceptions.RedisError when ValKey is away."""

    def __init__(self, client: "redis.Redis", wanted: bool):
        self._client, self.wanted = client, wanted

    def check(self) -> None:
        """Raises: NotKept when what is written now would never be confirmed."""
        if self.wanted:
            found: Any = self._client.info("persistence")
            if not found.get("aof_enabled"):
                raise NotKept(_NO_FILE)

    def confirm(self) -> None:
        """Returns when everything that was written before this call, on whichever connection, is on disk.

        Raises: NotKept when ValKey does not say so within 5 s.
        """
        if not self.wanted:
            return
        with self._client.pipeline(transaction=False) as pipeline:
            # WAITAOF waits for the writes of its own connection; the file is one log, with the others' before this.
            pipeline.set(_MARK, 1)
            pipeline.execute_command("WAITAOF", 1, 0, _TIMEOUT_MS)
            try:
                (_, (local, _)) = pipeline.execute()
            except ConnectionError:  # among them those that say that no writes are taken for now
                raise
            except ResponseError as error:
                raise NotKept(f"FLEET_DURABILITY is fsync, which ValKey cannot do: {error}") from None
        if not local:
            raise NotKept(
                f"ValKey did not say within {_TIMEOUT_MS / 1000:g} s that it is on disk (FLEET_DURABILITY is fsync): "
                "its disk is slow, or its appendfsync is neither everysec nor always"
            )
