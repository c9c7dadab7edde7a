"""A chord's record as the scripts return it."""

# mypy: disable-error-code="no-untyped-call"

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kombu.utils.encoding import bytes_to_str


def _pairs(reply: Any) -> Iterable[tuple[Any, Any]]:
    """A hash, whether redis-py made a dictionary of it or, out of a script, left it a flat list."""
    return reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)


@dataclass(frozen=True)
class Record:
    group_id: str
    fields: Mapping[str, Any]
    parts: Mapping[str, Any]

    @classmethod
    def parse(cls, group_id: str, fields: Any, parts: Any) -> "Record":
        """From two HGETALL replies; values stay as they are, since a body or a part may be binary."""
        return cls(
            group_id,
            {bytes_to_str(name): value for name, value in _pairs(fields)},
            {bytes_to_str(name): value for name, value in _pairs(parts)},
        )

    def text(self, name: str) -> str:
        return str(bytes_to_str(self.fields[name]))

    def number(self, name: str) -> int:
        return int(self.fields.get(name, 0))

    @property
    def partial(self) -> bool:
        return "partial" in self.fields

    @property
    def late(self) -> bool:
        return "late" in self.fields

    @property
    def expected(self) -> int | None:
        """How many parts make it complete; None while the producer still counts a lazy header."""
        return self.number("size") + self.number("added") if "size" in self.fields else None

    @property
    def tree(self) -> list[Any] | None:
        return json.loads(self.text("tree")) if "tree" in self.fields else None

    def describe(self, parts: int) -> dict[str, Any]:
        deadline = self.fields.get("deadline")
        return {
            "state": self.text("state"),
            "size": self.expected,
            "parts": parts,
            "deadline": None if deadline is None else float(deadline),
            "partial": self.partial,
            "sweeps": self.number("swept"),
        }
