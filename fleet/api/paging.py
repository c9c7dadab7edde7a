"""Pages of lists: `limit` and an opaque `cursor` in, `items` and `next_cursor` out."""

import base64
import binascii
import json
from typing import Any

from pydantic import Field

from fleet.api.problems import invalid
from fleet.models import Model
from fleet.store.pages import Position

MOST_ITEMS = 200


class PageQuery(Model):
    """The query of every list."""

    limit: int = Field(50, ge=1, le=MOST_ITEMS)
    cursor: str | None = Field(None, max_length=500, description="`next_cursor` of the page before")

    def position(self) -> Position | None:
        """Where the page begins. Raises: Refused (422)."""
        return decode(self.cursor) if self.cursor is not None else None


def encode(position: Position | None) -> str | None:
    if position is None:
        return None
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def decode(cursor: str) -> Position:
    """Raises: Refused (422) when `encode` did not make the cursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        score, id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        return Position(_finite(score), _text(id))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise invalid(["query", "cursor"], "is no cursor of this list") from None


def _finite(score: Any) -> float:
    if not isinstance(score, float | int) or not 0 <= score < 2**53:
        raise ValueError(score)
    return float(score)


def _text(id: Any) -> str:
    if not isinstance(id, str):
        raise TypeError(id)
    return id
