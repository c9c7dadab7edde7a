"""The API's keys, shared by all replicas. Of a key's secret only the hash is stored."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import redis

from fleet.errors import Conflict
from fleet.models import Model
from fleet.store.base import KEYS, now_ms

_TEXT = re.compile(r"fleet_([0-9a-f]{12})_([0-9a-f]{64})")


class Scope(StrEnum):
    """What a key may do; each scope contains the ones before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def covers(self, needed: "Scope") -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(needed)


class ApiKey(Model):
    """A key without its secret."""

    key_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at_ms: int


class _StoredKey(ApiKey):
    secret_sha256: str

    def opens_with(self, secret: str) -> bool:
        return hmac.compare_digest(self.secret_sha256, _hash(secret))

    def shown(self) -> ApiKey:
        return ApiKey(**self.model_dump(exclude={"secret_sha256"}))


class Keys:
    def __init__(self, client: "redis.Redis"):
        self._client = client

    def create(self, name: str, scopes: Sequence[Scope], seed: str | None = None) -> tuple[ApiKey, str]:
        """Makes a key; returns it and its text, which nobody can read again.

        Raises: Conflict when a key was made of this seed before.
        """
        secret = secrets.token_hex(32)
        stored = _StoredKey(
            key_id=_hash(seed)[:12] if seed else secrets.token_hex(6),
            name=name,
            scopes=tuple(scope for scope in Scope if scope in scopes),
            created_at_ms=now_ms(self._client),
            secret_sha256=_hash(secret),
        )
        new = self._client.hsetnx(KEYS, stored.key_id, stored.kept())
        # It may be this very call's, sent again after a lost answer.
        if not new and self._client.hget(KEYS, stored.key_id) != stored.kept():
            raise Conflict("key", stored.key_id)
        return stored.shown(), f"fleet_{stored.key_id}_{secret}"

    def find(self, text: str) -> ApiKey | None:
        """The key with this text; asks ValKey each time, so that a revoked key is refused everywhere at once."""
        parts = _TEXT.fullmatch(text)
        document: Any = self._client.hget(KEYS, parts[1]) if parts else None
        if not parts or not document:
            return None
        stored = _StoredKey.read(document)
        return stored.shown() if stored.opens_with(parts[2]) else None

    def exists(self, key_id: str) -> bool:
        """False once the key is revoked."""
        return bool(self._client.hexists(KEYS, key_id))

    def list(self) -> list[ApiKey]:
        """All keys, the oldest first."""
        documents: Any = self._client.hvals(KEYS)
        keys = [_StoredKey.read(document).shown() for document in documents]
        return sorted(keys, key=lambda key: (key.created_at_ms, key.key_id))

    def revoke(self, key_id: str) -> bool:
        """Forgets a key; False if there is none."""
        return bool(self._client.hdel(KEYS, key_id))


def _hash(secret: str) -> str:
    """SHA-256 will do: the secret is 256 random bits, which nobody guesses."""
    return hashlib.sha256(secret.encode()).hexdigest()
