"""Counts of all deliberations, each read in a time that does not grow with them."""

from collections.abc import Sequence

import redis
from pydantic import Field

from fleet.models import Model
from fleet.store import base
from fleet.valkey.transport import list_keys

_TOTALS = "fleet:totals"  # counted by the scripts that change the state
_MINUTE_MS = 60_000


class Totals(Model):
    """Since the fleet's ValKey began; `accepted` are deliberations, of plans and single ones."""

    accepted: int = 0
    completed: int = 0
    partial: int = 0
    failed: int = 0
    cancelled: int = 0
    dead_letters: int = 0
    refused_full: int = Field(0, description="Submissions while as many were open as may be; an event at each try")
    refused_rate: int = Field(0, description="Requests beyond a key's limit")


class Rate(Model):
    """Deliberations per minute, in the mean of a time that ends now."""

    last_minute: float
    last_10_minutes: float


class Rates(Model):
    """What finished longer ago than the retention does not count."""

    accepted: Rate
    finished: Rate


class Stats(Model):
    totals: Totals
    per_minute: Rates
    in_progress: int
    pending: int = Field(description="Accepted, and no agent has started yet")
    open: int = Field(description="Accepted and not final: what the limit is for")
    limit: int | None = Field(None, description="How many may be open before no more are accepted; absent without one")
    events: int = Field(description="How many the log holds; what was relayed long ago is trimmed")


class Statistics:
    """Reads the counters and indexes of one ValKey. Raises redis.exceptions.RedisError when it is away."""

    def __init__(self, client: "redis.Redis"):
        self._client = client

    def read(self, limit: int = 0) -> Stats:
        """All of them at one instant; `limit` is the most that may be open, 0 for none."""
        now_ms = base.now_ms(self._client)
        with self._client.pipeline() as pipeline:
            pipeline.hgetall(_TOTALS)
            pipeline.xlen(base.EVENTS)
            for index in (base.DELIBERATIONS, base.FINISHED):
                pipeline.zcard(index)
                pipeline.zcount(index, now_ms - _MINUTE_MS, "+inf")
                pipeline.zcount(index, now_ms - 10 * _MINUTE_MS, "+inf")
            counted, events, known, new_1, new_10, finished, ended_1, ended_10 = pipeline.execute()
        in_progress = max(0, int(counted.get("in_progress", 0)))
        return Stats(
            # A replica of another version may count more.
            totals=Totals.model_validate({name: counted[name] for name in Totals.model_fields if name in counted}),
            per_minute=Rates(accepted=_rate(new_1, new_10), finished=_rate(ended_1, ended_10)),
            in_progress=in_progress,
            pending=max(0, known - finished - in_progress),
            open=known - finished,
            limit=limit or None,
            events=events,
        )

    def ready(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages wait in each of the broker's queues, without those that workers hold."""
        with self._client.pipeline() as pipeline:
            for queue in queues:
                for key in list_keys(queue):
                    pipeline.llen(key)
            lengths = iter(pipeline.execute())
        return {queue: sum(next(lengths) for _ in list_keys(queue)) for queue in queues}


def _rate(in_1: int, in_10: int) -> Rate:
    return Rate(last_minute=in_1, last_10_minutes=in_10 / 10)
