"""What is known of a deliberation while it runs: events in, an immutable picture out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from fleet import events
from fleet.cli.output import plain, task_of
from fleet.cli.stream import Event
from fleet.models import Status

FINAL = tuple(status for status in Status if status.final)
PROPOSE, RECORD = "propose:0", "record"


@dataclass(frozen=True, slots=True)
class Cell:
    """One agent in one step. `at` is when it was asked (Unix time in seconds); `text` says how long, or why not."""

    state: str  # "asked", "answered", "failed", "missing"
    text: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Track:
    """One deliberation as its events tell it so far."""

    id: str
    role: str
    task: str
    agents: tuple[str, ...]
    status: str = "PENDING"
    steps: tuple[str, ...] = ()
    cells: Mapping[tuple[str, str], Cell] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Track":
        """From the deliberation as the API shows it."""
        known = cls(found["deliberation_id"], found["role"], task_of(found), tuple(found["agents"]), found["status"])
        return known.finished(found) if known.final else known

    @property
    def final(self) -> bool:
        return self.status in FINAL

    def finished(self, result: Mapping[str, Any]) -> "Track":
        return replace(self, status=result["status"], result=result)

    def after(self, event: Event) -> "Track":
        """The picture after one more event of this deliberation; unknown events change nothing."""
        payload = event.payload
        if event.subject == "orchestration.deliberation.stepped":
            return self._opened(payload["step"], _seconds(payload))
        if event.subject == "orchestration.task.dispatched":
            return self._put(PROPOSE, payload["agent_id"], Cell("asked", at=_seconds(payload)))
        if event.subject == "orchestration.task.completed":
            return self._put(payload["step"], payload["agent_id"], _answered(payload))
        if event.subject == "orchestration.task.failed":
            return self._put(payload["step"], payload["agent_id"], Cell("failed", payload["error"]))
        if event.subject == "orchestration.deliberation.started":
            return self if self.final else replace(self, status="IN_PROGRESS")
        return self._closed(payload["status"]) if event.subject in events.FINAL else self

    def _put(self, step: str, agent: str, cell: Cell) -> "Track":
        steps = self.steps if step in self.steps else (*self.steps, step)
        return replace(self, steps=steps, cells={**self.cells, (step, agent): cell})

    def _opened(self, step: str, at: float) -> "Track":
        """A step begins: who has not answered the one before did not, and who proposed is asked."""
        cells = {key: _late(cell) for key, cell in self.cells.items()}
        if step != RECORD:
            able = [agent for agent in self.agents if self._proposed(agent)]
            cells = {(step, agent): Cell("asked", at=at) for agent in able} | cells
        return replace(self, steps=tuple(dict.fromkeys((*self.steps, step))), cells=cells, status="IN_PROGRESS")

    def _closed(self, status: str) -> "Track":
        return replace(self, status=status, cells={key: _late(cell) for key, cell in self.cells.items()})

    def _proposed(self, agent: str) -> bool:
        cell = self.cells.get((PROPOSE, agent))
        return cell is not None and cell.state == "answered"


def concerns(event: Event) -> str | None:
    """The deliberation that an event is about."""
    decision: str = event.payload.get("decision_id", "")
    found = event.payload.get("deliberation_id") or decision.removeprefix("decision:")
    return str(found) or None


def is_last(event: Event) -> bool:
    return event.subject in events.FINAL


def event_line(subject: str, payload: dict[str, Any]) -> str:
    """One event as one line: when, who, what."""
    seconds = payload.get("duration_ms", 0) / 1000
    details = {
        "orchestration.task.dispatched": "is asked for a proposal",
        "orchestration.deliberation.started": "deliberation starts",
        "orchestration.deliberation.stepped": f"{payload.get('step')} begins",
        "orchestration.task.completed": f"{payload.get('step')} answered in {seconds:.1f} s",
        "orchestration.task.failed": f"{payload.get('step')} failed: {payload.get('error')}",
        "context.decision.added": f"{payload.get('decision_id')} is in the graph",
        "fleet.gap": f"events before {payload.get('oldest')} are no longer in the log",
        "agent.results": f"result {payload.get('status')}",
        "deadletter": f"dead letter {payload.get('dead_letter_id')}: {payload.get('reason')}",
    }
    kind = next((name for name in details if f"{subject}.".startswith(f"{name}.")), "")
    detail = details.get(kind) or " ".join([*subject.split(".")[1:2], str(payload.get("status", ""))])
    who = payload.get("agent_id") or payload.get("role") or ""
    return plain(f"{str(payload.get('timestamp', ''))[11:19]} {who:<20} {detail}").rstrip()


def _answered(payload: Mapping[str, Any]) -> Cell:
    failed = ", checks failed" if payload.get("checks_passed") is False else ""
    return Cell("answered", f"{payload['duration_ms'] / 1000:.1f} s{failed}")


def _late(cell: Cell) -> Cell:
    return Cell("missing", "no answer") if cell.state == "asked" else cell


def _seconds(payload: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(payload["timestamp"]).timestamp()
