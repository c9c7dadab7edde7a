"""Councils, shared by all replicas."""

import uuid
from collections.abc import Callable
from typing import Any

import redis

from fleet.models import Council, Role
from fleet.store.base import COUNCILS, Scripts
from fleet.store.idempotency import TTL_S

_SENT_AGAIN_S = 120  # longer than a client tries to get an answer that was lost


def _change_key(id: str) -> str:
    return f"fleet:council-change:{id}"


class Councils:
    def __init__(self, client: "redis.Redis", scripts: Scripts):
        self._client, self._scripts = client, scripts

    def change(
        self, role: Role, to: Callable[[Council | None], Council | None], id: str | None = None
    ) -> tuple[Council | None, Council | None]:
        """Replaces a role's council by what `to` makes of it (None is no council); returns it before and after.

        `to` is called again when another replica was faster; what it raises leaves everything as it is. A change with
        an `id` is made once within 24 hours: after that, what it returned is returned again.
        """
        key = _change_key(id or str(uuid.uuid4()))
        done: Any = self._client.hmget(key, ["before", "after"]) if id else []
        while not done or done[0] is None:
            seen = self._document(role)
            after = to(_council(seen))
            args = [role, seen, after.kept() if after else "", TTL_S if id else _SENT_AGAIN_S]
            done = self._scripts.run("set_council", [COUNCILS, key], args)
        return _council(done[0]), _council(done[1])

    def ensure(self, council: Council) -> Council:
        """The council of that role: the one there is, else this one."""
        return self.change(council.role, lambda there: there or council)[1] or council

    def get(self, role: Role) -> Council | None:
        return _council(self._document(role))

    def list(self) -> list[Council]:
        """All councils, in the order of `Role`."""
        documents: Any = self._client.hgetall(COUNCILS)
        return [Council.read(documents[role]) for role in Role if documents.get(role)]

    def deleted(self) -> set[Role]:
        """The roles whose council was deleted and not made again."""
        documents: Any = self._client.hgetall(COUNCILS)
        return {Role(role) for role, document in documents.items() if not document}

    def _document(self, role: Role) -> str:
        document: Any = self._client.hget(COUNCILS, role)
        return document or ""


def _council(document: str) -> Council | None:
    return Council.read(document) if document else None
