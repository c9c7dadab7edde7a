"""How many requests for work each caller may send, counted in ValKey for all replicas by ValKey's clock."""

from dataclasses import dataclass

from fleet.store.base import Scripts


def _key(caller: str) -> str:
    return f"fleet:rate:{caller}"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller has: `left` requests of `limit` a minute; all of them in `reset_s` seconds, one in `retry_s`."""

    allowed: bool
    limit: int
    left: int
    reset_s: int
    retry_s: int


class RateLimits:
    def __init__(self, scripts: Scripts):
        self._scripts = scripts

    def take(self, caller: str, limit: int) -> Allowance:
        """Counts one request, if the caller may send it: up to `limit` at once, and `limit` a minute in the long run.

        A refused one counts for nothing. Seconds are rounded up.
        """
        allowed, left, reset_ms, retry_ms = self._scripts.run("take_token", [_key(caller)], [limit])
        return Allowance(allowed == 1, limit, left, -(-reset_ms // 1000), -(-retry_ms // 1000))
