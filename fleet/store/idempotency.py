"""Which content an Idempotency-Key stands for."""

from enum import Enum
from typing import cast

import redis

TTL_S = 86_400


class Claim(Enum):
    """What `claim` found: a key not seen for a day, the same content again, or other content."""

    NEW = "new"
    SAME = "same"
    OTHER = "other"


def _key(key: str) -> str:
    return f"fleet:idempotency:{key}"


class Idempotency:
    def __init__(self, client: "redis.Redis"):
        self._client = client

    def claim(self, key: str, digest: str) -> Claim:
        """Binds the key to the content for 24 hours, unless it is bound already."""
        before = cast(str | None, self._client.set(_key(key), digest, nx=True, get=True, ex=TTL_S))
        if before is None:
            return Claim.NEW
        return Claim.SAME if before == digest else Claim.OTHER

    def release(self, key: str) -> None:
        """Forgets the key: what it was claimed for was refused, and may be put right and sent again."""
        self._client.delete(_key(key))
