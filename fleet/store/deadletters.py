"""What could not be processed, kept until a person replays or discards it."""

from collections.abc import Sequence
from typing import Any

import redis

from fleet.events import DeadLettered
from fleet.models import DeadLetter, Death, derive_id, digest
from fleet.store.base import DEAD_LETTERS, EVENTS, Scripts, now_ms


def _key(id: str) -> str:
    return f"fleet:deadletter:{id}"


def _attempts_key(source: str, message_id: str) -> str:
    return f"fleet:message-attempts:{source}:{message_id}"


class DeadLetters:
    """Dead letters and the attempts at messages that may become one."""

    def __init__(self, client: "redis.Redis", scripts: Scripts):
        self._client, self._scripts = client, scripts

    def add(
        self,
        source: str,
        reason: str,
        payload: str,
        attempts: int = 1,
        *,
        history: Sequence[Death] = (),
        message_id: str | None = None,
    ) -> DeadLetter:
        """Keeps a message; the same message from the same source is kept once. Its event is mirrored by the relay.

        Messages without an id are the same if their payload is.
        """
        letter = DeadLetter(
            dead_letter_id=derive_id("dead letter", source, message_id or digest(payload)),
            source=source,
            reason=reason,
            payload=payload,
            attempts=attempts,
            history=tuple(history),
            created_at_ms=now_ms(self._client),
        )
        event = DeadLettered(dead_letter_id=letter.dead_letter_id, source=source, reason=reason)
        keys = [_key(letter.dead_letter_id), DEAD_LETTERS, EVENTS]
        args = [letter.dead_letter_id, letter.kept(), event.subject, event.payload()]
        self._scripts.run("add_dead_letter", keys, args)
        return letter

    def get(self, id: str) -> DeadLetter | None:
        document: Any = self._client.get(_key(id))
        return DeadLetter.read(document) if document else None

    def remove(self, id: str) -> None:
        """Forgets a dead letter that was replayed or discarded."""
        with self._client.pipeline() as pipeline:
            pipeline.delete(_key(id))
            pipeline.zrem(DEAD_LETTERS, id)
            pipeline.execute()

    def count_attempt(self, source: str, message_id: str) -> int:
        """How often this message was tried, this time included; forgotten a day after the last attempt."""
        key = _attempts_key(source, message_id)
        with self._client.pipeline() as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, 86_400)
            return int(pipeline.execute()[0])
