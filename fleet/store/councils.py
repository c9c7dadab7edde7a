"""Councils, shared by all replicas."""

from typing import Any

import redis

from fleet.models import Council, Role
from fleet.store.base import COUNCILS


class Councils:
    def __init__(self, client: "redis.Redis"):
        self._client = client

    def ensure(self, council: Council) -> Council:
        """The council of that role: the one there is, else this one."""
        self._client.hsetnx(COUNCILS, council.role, council.dump())
        document: Any = self._client.hget(COUNCILS, council.role)
        return Council.model_validate_json(document)

    def get(self, role: Role) -> Council | None:
        document: Any = self._client.hget(COUNCILS, role)
        return Council.model_validate_json(document) if document else None

    def list(self) -> list[Council]:
        """All councils, in the order of `Role`."""
        documents: Any = self._client.hgetall(COUNCILS)
        return [Council.model_validate_json(documents[role]) for role in Role if role in documents]
