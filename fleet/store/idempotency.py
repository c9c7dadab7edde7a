"""Which request an Idempotency-Key stands for, and what it was answered."""

import uuid
from dataclasses import dataclass
from typing import Any, Literal

import redis

from fleet.store.base import Scripts

TTL_S = 86_400
LEASE_MS = 5_000


def _key(caller: str, key: str) -> str:
    return f"fleet:idempotency:{caller}:{key}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of a key: this caller's to work on ("mine"), worked on elsewhere ("busy"), with an `answer`
    ("answered"), or bound to another request ("other").

    `seed` is random, and the same for every attempt within 24 hours: ids derived from it are, too.
    """

    state: Literal["mine", "busy", "answered", "other"]
    binding: str = ""
    seed: str = ""
    attempt: int = 0
    answer: str = ""


class Idempotency:
    def __init__(self, client: "redis.Redis", scripts: Scripts):
        self._client, self._scripts = client, scripts

    def claim(self, caller: str, key: str, digest: str, lease_ms: int = LEASE_MS) -> Claim:
        """Binds a caller's key to a request for 24 hours. One that is not settled within the lease is free to others.

        `caller` has no colon.
        """
        binding = _key(caller, key)
        found: Any = self._scripts.run("claim_key", [binding], [digest, lease_ms, TTL_S, str(uuid.uuid4())])
        state, *rest = found
        if state == "answered":
            return Claim(state, seed=rest[0], answer=rest[1])
        return Claim(state, binding, *rest) if state == "mine" else Claim(state)

    def keep(self, claim: Claim, answer: str = "") -> None:
        """The work is done: the key stands for this answer, or without one for a request that may be done again."""
        self._scripts.run("settle_key", [claim.binding], [claim.attempt, "keep", answer])

    def free(self, claim: Claim) -> None:
        """The request was refused: the key may stand for another one."""
        self._scripts.run("settle_key", [claim.binding], [claim.attempt, "free", ""])
