"""Pages of what is stored, the newest first. A page ends at a position, from which the next one goes on.

Many entries may have been made in the same millisecond (a plan's deliberations are): a position is therefore a time
and an id, in the order in which ValKey keeps its sorted sets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import redis

from fleet.models import DeadLetter, Deliberation, Model, Status, StoredPlan
from fleet.store import base
from fleet.store.deadletters import DeadLetters
from fleet.store.deliberations import stored_view
from fleet.store.submissions import Submissions

M = TypeVar("M", bound=Model)
_CHUNK = 200
_CHUNK_OF_PLANS = 40  # each may have a mebibyte


class Position(NamedTuple):
    """Where an entry stands in its index: its score (Unix time in ms of ValKey's clock) and its id."""

    score: float
    id: str


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """Some items, and the position of the last one when there may be more."""

    items: tuple[M, ...]
    end: Position | None


class Pages:
    """Reads the indexes of one ValKey. Raises redis.exceptions.RedisError when it is away."""

    def __init__(self, client: "redis.Redis", submissions: Submissions, dead_letters: DeadLetters):
        self._client, self._submissions, self._dead_letters = client, submissions, dead_letters

    def deliberations(
        self, limit: int, after: Position | None = None, matching: Mapping[str, str] | None = None
    ) -> Page[Deliberation]:
        """At most `limit` deliberations whose fields equal those of `matching`."""
        wanted = (matching or {}).items()
        found = (
            (position, view)
            for chunk in self._walk(base.DELIBERATIONS, after)
            for position, view in zip(chunk, self._views(chunk), strict=True)
            if view and all(getattr(view, name) == value for name, value in wanted)
        )
        return _cut(found, limit)

    def plans(self, limit: int, after: Position | None = None, story_id: str | None = None) -> Page[StoredPlan]:
        found = (
            (position, stored)
            for chunk in self._walk(base.PLANS, after, _CHUNK_OF_PLANS)
            for position, stored in zip(chunk, self._submissions.plans([one.id for one in chunk]), strict=True)
            if stored and story_id in (None, stored.plan.story_id)
        )
        return _cut(found, limit)

    def dead_letters(self, limit: int, after: Position | None = None) -> Page[DeadLetter]:
        entries = (position for chunk in self._walk(base.DEAD_LETTERS, after) for position in chunk)
        found = ((position, letter) for position in entries if (letter := self._dead_letters.get(position.id)))
        return _cut(found, limit)

    def statuses(self, ids: Sequence[str]) -> dict[str, Status]:
        """The status of each of these deliberations that was not finished longer ago than the retention."""
        with self._client.pipeline(transaction=False) as pipeline:
            for id in ids:
                pipeline.hget(base.deliberation_key(id), "status")
            found = zip(ids, pipeline.execute(), strict=True)
            return {id: Status(status) for id, status in found if status}

    def _views(self, chunk: Sequence[Position]) -> list[Deliberation | None]:
        with self._client.pipeline(transaction=False) as pipeline:
            for position in chunk:
                pipeline.hgetall(base.deliberation_key(position.id))
            return [stored_view(fields) if fields else None for fields in pipeline.execute()]

    def _walk(self, index: str, after: Position | None, size: int = _CHUNK) -> Iterator[list[Position]]:
        """Everything in the index behind `after`, in chunks; entries added meanwhile are newer and do not show up."""
        offset = 0
        while rows := self._rows(index, after.score if after else float("inf"), offset, size):
            chunk = [Position(score, id) for id, score in rows if after is None or (score, id) < after]
            if chunk:
                yield chunk
                after, offset = chunk[-1], 0
            else:
                offset += len(rows)

    def _rows(self, index: str, most: float, offset: int, size: int) -> list[tuple[str, float]]:
        rows: Any = self._client.zrevrangebyscore(index, most, "-inf", start=offset, num=size, withscores=True)
        return [(row[0], row[1]) for row in rows]


def _cut(found: Iterator[tuple[Position, M]], limit: int) -> Page[M]:
    entries = list(islice(found, limit + 1))
    more = len(entries) > limit
    return Page(tuple(item for _, item in entries[:limit]), entries[limit - 1][0] if more else None)
