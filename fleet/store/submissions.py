"""What was handed in: plans and single deliberations, each stored with its deliberations in one Lua call."""

from collections.abc import Sequence
from typing import Any

import redis

from fleet.errors import Conflict, NotKept, QueueFull
from fleet.models import StoredPlan, Task
from fleet.store import base
from fleet.store.base import Scripts

# Longer than the stream of plan events keeps them, so that a replayed event always finds its plan.
PLAN_RETENTION_S = 35 * 86_400
IDEMPOTENCY_S = 86_400
SENT_AGAIN_S = 120  # longer than a client tries to get an answer that was lost
# What is accepted grows as it is worked on: a full ValKey would keep it and never finish it.
MOST_MEMORY_PERMILLE = 900
_CONFLICT, _FULL, _NO_MEMORY = -1, -2, -3


def _plan_key(id: str) -> str:
    return f"fleet:plan:{id}"


def _request_key(id: str) -> str:
    return f"fleet:request:{id}"


class Submissions:
    """Takes work in; what is in already is found again, however full ValKey is."""

    def __init__(self, client: "redis.Redis", scripts: Scripts, limit: int):
        self._client, self._scripts, self._limit = client, scripts, limit

    def add_plan(self, stored: StoredPlan, tasks: Sequence[Task]) -> tuple[StoredPlan, bool]:
        """Stores a plan once with its deliberations; returns what is stored and whether this call did it.

        Raises: Conflict when the id was used with other content; NotAccepted.
        """
        plan = stored.plan
        document, created = self._add(
            _plan_key(plan.plan_id), plan.digest(), stored.kept(), PLAN_RETENTION_S, plan.plan_id, tasks
        )
        if document is None:
            raise Conflict("plan", plan.plan_id)
        return StoredPlan.read(document), created

    def add_deliberation(self, task: Task, digest: str, ttl_s: int = IDEMPOTENCY_S) -> bool:
        """Stores one deliberation that belongs to no submitted plan; False if it was stored within `ttl_s` seconds.

        Raises: Conflict when the id (from an Idempotency-Key) was used with other content; NotAccepted.
        """
        document, created = self._add(
            _request_key(task.deliberation_id), digest, task.deliberation_id, ttl_s, "", [task]
        )
        if document is None:
            raise Conflict("deliberation", task.deliberation_id)
        return created

    def _add(
        self, key: str, digest: str, document: str, ttl_s: int, plan_id: str, tasks: Sequence[Task]
    ) -> tuple[str | None, bool]:
        keys = [key, base.PLANS, base.DELIBERATIONS, base.DUE, base.FINISHED]
        args: list[Any] = [digest, document, ttl_s, plan_id, self._limit, MOST_MEMORY_PERMILLE, len(tasks)]
        for task in tasks:
            args += [task.deliberation_id, task.kept(), task.timeout_ms]
        outcome, known = self._scripts.run("accept", keys, args)
        if outcome == _FULL:
            raise QueueFull(self._limit)
        if outcome == _NO_MEMORY:
            raise NotKept(f"ValKey uses more than {MOST_MEMORY_PERMILLE / 10:g} % of its maxmemory")
        return (None if outcome == _CONFLICT else known), outcome == 1

    def plan(self, id: str) -> StoredPlan | None:
        """The plan as it was handed in, at the time of ValKey's clock; None for an unknown id."""
        return self.plans([id])[0]

    def plans(self, ids: Sequence[str]) -> list[StoredPlan | None]:
        """The plan of each id, as `plan` has it, in one round trip."""
        with self._client.pipeline(transaction=False) as pipeline:
            for id in ids:
                pipeline.hmget(_plan_key(id), "document", "created_at_ms")
            return [_stored(*fields) for fields in pipeline.execute()]


def _stored(document: str | None, created_at_ms: str | None) -> StoredPlan | None:
    if document is None or created_at_ms is None:
        return None
    return StoredPlan.read(document).model_copy(update={"created_at_ms": int(created_at_ms)})
