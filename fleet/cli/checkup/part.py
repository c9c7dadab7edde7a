"""What was looked at."""

from dataclasses import dataclass
from typing import Any

from rich.text import Text


@dataclass(frozen=True)
class Part:
    """One thing that was looked at; what is not `needed` here may be missing."""

    name: str
    ok: bool
    state: str
    remedy: str = ""
    needed: bool = True

    @property
    def wrong(self) -> bool:
        return self.needed and not self.ok

    def shown(self) -> list[Any]:
        mark = Text("✓", "green") if self.ok else Text("✗", "red") if self.needed else Text("-", "yellow")
        return [mark, self.name, self.state, "" if self.ok else self.remedy]
