"""Whether what ValKey was given is on its disk: FLEET_DURABILITY says whether accepting work waits for that."""

from typing import Any

import redis
from redis.exceptions import ConnectionError, ResponseError

from fleet.errors import NotKept

_MARK = "fleet:durable"
_TIMEOUT_MS = 5_000
# With appendfsync everysec, WAITAOF answers before the data is on disk, in Valkey (9.1 too) and in Redis 7.4.
_NEEDED = {"appendonly": "yes", "appendfsync": "always"}


class Durability:
    """Waits for ValKey's disk, if it is `wanted`; raises redis.exceptions.RedisError when ValKey is away."""

    def __init__(self, client: "redis.Redis", wanted: bool):
        self._client, self.wanted = client, wanted

    def check(self) -> None:
        """Raises: NotKept when nobody could say whether what is written now is on disk."""
        if not self.wanted:
            return
        try:
            found: Any = self._client.config_get("append*")
        except ConnectionError:  # among them those that say that no writes are taken for now
            raise
        except ResponseError as error:
            raise NotKept(f"FLEET_DURABILITY is fsync, and ValKey does not tell its configuration: {error}") from None
        wrong = [f"{name} {found.get(name)}" for name, value in _NEEDED.items() if found.get(name) != value]
        if wrong:
            needed = " and ".join(f"{name} {value}" for name, value in _NEEDED.items())
            raise NotKept(f"FLEET_DURABILITY is fsync, which needs {needed}, and ValKey has {', '.join(wrong)}")

    def confirm(self) -> None:
        """Returns when everything that was written before this call, on whichever connection, is on disk.

        Raises: NotKept when ValKey does not say so within 5 s.
        """
        if not self.wanted:
            return
        with self._client.pipeline(transaction=False) as pipeline:
            # WAITAOF waits for the writes of its own connection; the file is one log, with the others' before this.
            pipeline.set(_MARK, 1)
            pipeline.waitaof(1, 0, _TIMEOUT_MS)
            try:
                (_, (local, _)) = pipeline.execute()
            except ConnectionError:
                raise
            except ResponseError as error:
                raise NotKept(f"FLEET_DURABILITY is fsync, which ValKey cannot do: {error}") from None
        if not local:
            raise NotKept(
                f"ValKey did not say within {_TIMEOUT_MS / 1000:g} s that it is on disk (FLEET_DURABILITY is fsync)"
            )
