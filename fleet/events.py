"""Every subject of Fleet's events and the payloads of those that go out: event log, NATS, SSE and CLI use them.

An event is appended to the log in the Lua call that changes the state (`fleet.store`); the listener relays the log.
What agents write, token by token, goes past the log. Consumers tolerate unknown fields.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from fleet.models import Decision, Role, Task

PLAN_APPROVED = "planning.plan.approved"  # comes in as a models.PlanRequest
STORY_TRANSITIONED = "planning.story.transitioned"  # comes in as a models.StoryTransition


# After one of these nothing more happens to a deliberation.
FINAL = tuple(f"orchestration.deliberation.{ending}" for ending in ("completed", "failed", "cancelled"))


def now() -> datetime:
    return datetime.now(UTC)


class Event(BaseModel):
    """Base of all payloads; `subject` says where the event goes."""

    SUBJECT: ClassVar[str]
    model_config = ConfigDict(frozen=True)

    story_id: str | None = None
    timestamp: datetime = Field(default_factory=now)

    @property
    def subject(self) -> str:
        return self.SUBJECT

    def payload(self) -> str:
        return self.model_dump_json(exclude_none=True)


class TaskDispatched(Event):
    SUBJECT = "orchestration.task.dispatched"
    plan_id: str | None = None
    deliberation_id: str
    task_id: str
    agent_id: str
    role: Role


class TaskCompleted(Event):
    SUBJECT = "orchestration.task.completed"
    deliberation_id: str
    task_id: str
    agent_id: str
    role: Role
    step: str
    duration_ms: int
    checks_passed: bool | None = Field(None, description="Absent as long as the checks have not run")


class TaskFailed(Event):
    SUBJECT = "orchestration.task.failed"
    deliberation_id: str
    task_id: str
    agent_id: str
    role: Role
    step: str
    error: str
    error_type: str


def about(task: Task) -> dict[str, Any]:
    """What every event of a deliberation says about it."""
    return task.model_dump(include={"story_id", "plan_id", "deliberation_id", "task_id", "role"})


class DeliberationEvent(Event):
    """Base of what happens to a deliberation as a whole."""

    plan_id: str | None = None
    deliberation_id: str
    task_id: str
    role: Role
    status: str


class DeliberationStarted(DeliberationEvent):
    SUBJECT = "orchestration.deliberation.started"


class DeliberationStepped(DeliberationEvent):
    """A step of the deliberation opened: "review:1", "vote:1", "record", …"""

    SUBJECT = "orchestration.deliberation.stepped"
    step: str


class DeliberationFinished(DeliberationEvent):
    """COMPLETED, PARTIAL → `…completed`; FAILED → `…failed`; CANCELLED → `…cancelled`."""

    SUBJECT = "orchestration.deliberation.completed"
    winner_agent_id: str | None = None
    decisions: tuple[str, ...] = ()
    duration_ms: int | None = None
    error_message: str | None = None

    @classmethod
    def of(cls, decision: Decision) -> "DeliberationFinished":
        return cls(
            status=decision.status,
            winner_agent_id=decision.winner_id,
            decisions=(decision.decision_id,),
            duration_ms=decision.duration_ms,
            error_message=decision.error_message,
            **about(decision.task),
        )

    @property
    def subject(self) -> str:
        ending = {"FAILED": "failed", "CANCELLED": "cancelled"}.get(self.status, "completed")
        return f"orchestration.deliberation.{ending}"


class AgentResult(Event):
    SUBJECT = "agent.results"
    deliberation_id: str
    agent_id: str
    task_id: str
    role: Role
    status: Literal["completed", "failed"]
    proposal: dict[str, Any] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict, description="model, tokens_used, latency_ms")

    @property
    def subject(self) -> str:
        return f"agent.results.{self.deliberation_id}"


class TokensWritten(Event):
    """What an agent writes, while it writes it. Not in the event log: who does not listen misses it, and what a slow
    server could not take is dropped, which shows as a jump of `position`. In the subject, a dot of an agent's id is
    `%2E`.
    """

    SUBJECT = "vllm.streaming"
    type: Literal["start", "token", "complete"]
    deliberation_id: str
    agent_id: str
    step: str
    role: Role
    stream: str = Field(description="One run of one part; a part that is run again has another")
    number: int = Field(description="Of the message in its stream, from 0")
    text: str = ""
    tokens: int = Field(0, description="Of this text, as far as the engine tells them apart")
    position: int = Field(description="Tokens before this text; of `complete`, all of them")
    model: str | None = Field(None, description="Absent where the engine alone knows it")
    failed: bool | None = Field(None, description="Of `complete`: there will be no whole answer from this run")

    @property
    def subject(self) -> str:
        return f"vllm.streaming.{self.deliberation_id}.{self.agent_id.replace('.', '%2E')}"


class DecisionAdded(Event):
    SUBJECT = "context.decision.added"
    decision_id: str
    decision_type: str = "deliberation"


class DeadLettered(Event):
    """Mirrored to the stream DEAD_LETTERS; the dead letter itself is in ValKey."""

    SUBJECT = "deadletter"
    dead_letter_id: str
    source: str
    reason: str

    @property
    def subject(self) -> str:
        return f"deadletter.{self.source}"
