"""Circuit breakers: what all workers know of a server that engines ask, by ValKey's clock.

closed → open after so many failures in a row → half-open when it is time for one request, over all workers, to try it →
closed, or open for longer. Each method is one Lua call.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import redis

from fleet.models import Model
from fleet.store import base
from fleet.store.base import Scripts, answers_key, attempts_key, deliberation_key, unstarted_key, watermark_key
from fleet.store.deliberations import Attempt, Part

State = Literal["closed", "open", "half-open"]
LONGEST = 8  # times the first wait
FORGET_S = 86_400  # a server that did not fail for so long is no news
WAITING_MS = 15_000  # a part that waits says so every second
_LOST_MS = 6_000  # as long as an attempt's silence that is its death


@dataclass(frozen=True, slots=True)
class Limits:
    """`failures` in a row open a breaker, for `open_ms` at first."""

    failures: int
    open_ms: int


class BreakerState(Model):
    """One endpoint's; `failures` in a row, `waiting` deliberations, and the last failure's reason."""

    endpoint: str
    state: State
    since_ms: int
    failures: int
    probe_at_ms: int | None = None
    waiting: int = 0
    reason: str | None = None


class Asked(NamedTuple):
    """Whether a part may ask, as the one that tries; else since when (ms) the endpoint fails."""

    go: bool
    failing_since_ms: int
    probes: bool


class Told(NamedTuple):
    """The breaker after it was told of a request; `next_ms` is how long it stays open."""

    state: State
    failures: int
    next_ms: int
    changed: bool


class Standing(NamedTuple):
    """A deliberation whose clock stands; `stopped` by this call, `until_ms` for its step."""

    stopped: bool
    until_ms: int


class Breakers:
    """Raises redis.exceptions.RedisError when ValKey is away."""

    def __init__(self, client: "redis.Redis", scripts: Scripts):
        self._client, self._scripts = client, scripts

    def ask(self, endpoint: str, attempt: Attempt) -> Asked:
        """Whether the attempt may ask the endpoint now. One that is to try has to start and to be renewed."""
        part = attempt.part
        keys = [_key(endpoint), attempts_key(part.deliberation_id)]
        go, since, probes = self._scripts.run(
            "ask_breaker", keys, [f"{part.step}.{part.agent_id}", attempt.id, _LOST_MS]
        )
        return Asked(bool(go), since, bool(probes))

    def answered(self, endpoint: str, attempt: Attempt) -> Told:
        """The endpoint answered: it is well, if it was asked since it was last known not to be."""
        return self._tell([endpoint, attempt.id, 1, 0, "", 0, 0, 0, 0, FORGET_S])

    def failed(
        self, endpoint: str, attempt: Attempt, reason: str, limits: Limits, *, took_ms: int = 0, least_ms: int = 0
    ) -> Told:
        """The endpoint failed a request that took so long; `least_ms` is how long it wants to be left alone."""
        wait_ms = int(limits.open_ms * random.uniform(0.8, 1.2))
        most_ms = limits.open_ms * LONGEST
        more = [limits.failures, wait_ms, most_ms, least_ms, FORGET_S]
        return self._tell([endpoint, attempt.id, 0, took_ms, reason, *more])

    def stand_still(self, endpoint: str, part: Part, lane: str, since_ms: int, ttl_ms: int) -> Standing | None:
        """Stops the deliberation's clock for a part that waits, as of `since_ms`; None when nobody wants the part.

        However many of its parts wait and however often each says so, an outage is made good once. A step waits no
        longer than `ttl_ms`.
        """
        id = part.deliberation_id
        keys = [deliberation_key(id), answers_key(id), unstarted_key(lane), watermark_key(lane), _waiting_key(endpoint)]
        args = [id, part.step, part.agent_id, since_ms, ttl_ms, WAITING_MS]
        wanted, *rest = self._scripts.run("stand_still", keys, args)
        return Standing(bool(rest[0]), rest[1]) if wanted else None

    def list(self) -> list[BreakerState]:
        """Every endpoint that failed within a day, in the order of their names."""
        names: Any = self._client.zrange(base.BREAKERS, 0, -1)
        since = base.now_ms(self._client) - WAITING_MS if names else 0
        with self._client.pipeline() as pipeline:
            for name in sorted(names):
                pipeline.hgetall(_key(name))
                pipeline.zcount(_waiting_key(name), since, "+inf")
            found = iter(pipeline.execute())
        read = [(name, next(found), next(found)) for name in sorted(names)]
        return [_state(name, fields, waiting) for name, fields, waiting in read if fields]

    def waiting(self, endpoint: str) -> set[str]:
        """The deliberations that wait for the endpoint."""
        since = base.now_ms(self._client) - WAITING_MS
        return set(cast(Sequence[str], self._client.zrange(_waiting_key(endpoint), since, "+inf", byscore=True)))

    def _tell(self, args: Sequence[Any]) -> Told:
        state, failures, next_ms, changed = self._scripts.run("tell_breaker", [_key(args[0]), base.BREAKERS], [*args])
        return Told(state, failures, next_ms, bool(changed))


def _state(endpoint: str, fields: Mapping[str, str], waiting: int) -> BreakerState:
    is_open = fields["state"] == "open"
    return BreakerState.model_validate(
        {
            "endpoint": endpoint,
            "state": fields["state"],
            "since_ms": int(fields["since_ms"]),
            "failures": int(fields["failures"]),
            "probe_at_ms": int(fields["probe_at_ms"]) if is_open else None,
            "waiting": 0 if fields["state"] == "closed" else waiting,
            "reason": fields.get("reason"),
        }
    )


def _key(endpoint: str) -> str:
    return f"fleet:breaker:{endpoint}"


def _waiting_key(endpoint: str) -> str:
    return f"fleet:breaker:{endpoint}:waiting"
