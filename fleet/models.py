"""The domain: plans, councils, deliberations, answers and decisions, as they travel in JSON.

Times ending in `_ms` are Unix time in milliseconds, `duration_ms` and `latency_ms` are durations in milliseconds.
Requests forbid unknown fields; a consumer of events passes `extra="ignore"` to `model_validate`.
"""

import graphlib
import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from fleet.errors import UnknownFormat

NAMESPACE = uuid.UUID("6a1f0f4e-51f5-5a0e-8a43-3f5b0c1f7a11")
MAX_AGENTS = 10
MAX_ROUNDS = 3


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return _storable(text)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    return text


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 3.0 is the whole number 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _written(value: Any) -> Any:
    """A number could be seconds or milliseconds: who reads it would have to guess."""
    if isinstance(value, int | float):
        raise ValueError("must be a text such as 2026-01-31T10:00:00Z")
    return value


def utf8(text: str) -> str:
    """The text as everything can store it: half a surrogate pair, which JSON may hold, is U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(most: int, pattern: str) -> WithJsonSchema:
    """What the validators below accept, in words that a client's generator understands."""
    return WithJsonSchema({"type": "string", "maxLength": most, "pattern": pattern})


_NOT_BLANK, _STORABLE = r"^[^\u0000]*[^\s\u0000][^\u0000]*$", r"^[^\u0000]*$"
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
Text = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_not_blank), _text(20_000, _NOT_BLANK)]
Line = Annotated[str, StringConstraints(max_length=500), AfterValidator(_not_blank), _text(500, _NOT_BLANK)]
Note = Annotated[str, StringConstraints(max_length=4_000), AfterValidator(_storable), _text(4_000, _STORABLE)]
Said = Annotated[str, AfterValidator(utf8)]  # by a model or its server
Time = Annotated[datetime, BeforeValidator(_written)]
Rounds = Annotated[int, Field(ge=0, le=MAX_ROUNDS, strict=True), BeforeValidator(_whole)]
AgentCount = Annotated[int, Field(ge=1, le=MAX_AGENTS, strict=True), BeforeValidator(_whole)]
Iterations = Annotated[int, Field(ge=1, le=100, strict=True), BeforeValidator(_whole)]
Seconds = Annotated[int, Field(ge=1, le=86_400, strict=True), BeforeValidator(_whole)]


FORMAT = 1  # of what is kept and sent; what does not say one has the first
FORMAT_HEADER = "fleet_format"  # of a task's message
_KEPT = f'{{"v":{FORMAT},'


def check_format(found: Any) -> None:
    """Raises: UnknownFormat when a later version of Fleet wrote what says that its format is `found`."""
    if isinstance(found, int | str) and _is_later(str(found)):
        raise UnknownFormat(found, FORMAT)


def _is_later(text: str) -> bool:
    return text.isdecimal() and (len(text) > 9 or int(text) > FORMAT)  # int() takes 4300 digits at most


class Role(StrEnum):
    DEV = "DEV"
    QA = "QA"
    ARCHITECT = "ARCHITECT"
    DEVOPS = "DEVOPS"
    DATA = "DATA"


class Status(StrEnum):
    """PENDING → IN_PROGRESS → COMPLETED | PARTIAL | FAILED; CANCELLED from either of the first two."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        return self not in (Status.PENDING, Status.IN_PROGRESS)


class Phase(StrEnum):
    """What the agents are asked for. A step is a phase with its round: "propose:0", "review:1", …"""

    PROPOSE = "propose"
    REVIEW = "review"
    REVISE = "revise"
    VOTE = "vote"


class StoryPhase(StrEnum):
    BACKLOG = "BACKLOG"
    DRAFT = "DRAFT"
    DESIGN = "DESIGN"
    BUILD = "BUILD"
    TEST = "TEST"
    DOCS = "DOCS"
    DONE = "DONE"


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def dump(self) -> str:
        """Compact JSON without empty optional fields."""
        return self.model_dump_json(exclude_none=True)

    def kept(self) -> str:
        """The same with its format, for a place where another version of Fleet may read it."""
        return _KEPT + self.dump()[1:]

    @classmethod
    def read(cls, document: str) -> Self:
        """From what was kept; fields that this version does not know are ignored. Raises: UnknownFormat."""
        if not document.startswith(_KEPT):
            check_format(json.loads(document).get("v"))
        return cls.model_validate_json(document, extra="ignore")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


# ── what comes in ─────────────────────────────────────────────────────────────────────────────────────────────────


class ArchitectRubric(Model):
    k: AgentCount = Field(3, description="How many of the best proposals the architect sees")
    criteria: Note = ""


class Constraints(Model):
    rubric: Note = ""
    requirements: tuple[Line, ...] = Field((), max_length=50)
    architect_rubric: ArchitectRubric = ArchitectRubric()
    cluster_spec: Note | None = None
    max_iterations: Iterations | None = None
    timeout_seconds: Seconds | None = Field(
        None, description="Time for all phases from the first agent's start; 300 unless set otherwise"
    )
    metadata: dict[Line, Note] = Field(
        default_factory=dict, max_length=50, json_schema_extra={"additionalProperties": False}
    )


class Subtask(Model):
    subtask_id: Id
    title: Line
    description: Text | None = None
    role: Role | None = None
    depends_on: tuple[Id, ...] = Field((), max_length=100, description="Stored and validated, not yet enforced")


class PlanRequest(Model):
    """An approved plan: one deliberation per subtask that names a role, else one per role, else one per council."""

    plan_id: Id
    story_id: Id
    title: Line | None = None
    description: Text | None = None
    approved_by: Line = "unknown"
    roles: tuple[Role, ...] = Field((), max_length=5, json_schema_extra={"uniqueItems": True})
    complexity: Line | None = None
    timestamp: Time | None = None
    subtasks: tuple[Subtask, ...] = Field((), max_length=100)
    constraints: Constraints = Constraints()
    rounds: Rounds | None = None
    num_agents: AgentCount | None = None

    @model_validator(mode="after")
    def _subtasks_form_a_graph(self) -> Self:
        ids = [subtask.subtask_id for subtask in self.subtasks]
        if repeated := sorted({id for id in ids if ids.count(id) > 1}):
            raise ValueError(f"duplicate subtask_id: {', '.join(repeated)}")
        for subtask in self.subtasks:
            if unknown := sorted(set(subtask.depends_on) - set(ids)):
                raise ValueError(f"subtask {subtask.subtask_id} depends on unknown subtasks: {', '.join(unknown)}")
        if cycle := find_cycle({subtask.subtask_id: subtask.depends_on for subtask in self.subtasks}):
            raise ValueError(f"cyclic dependencies: {' -> '.join(cycle)}")
        if len(set(self.roles)) < len(self.roles):
            raise ValueError("roles must not repeat")
        return self

    def digest(self) -> str:
        """SHA-256 of the content: who approved it and when do not count, nor what was left to its default."""
        return digest(self.model_dump(mode="json", exclude={"approved_by", "timestamp"}, exclude_defaults=True))


class DeliberationRequest(Model):
    """One task for one council."""

    task_description: Text
    role: Role
    story_id: Id | None = None
    plan_id: Id | None = None
    task_id: Id | None = None
    constraints: Constraints = Constraints()
    rounds: Rounds | None = None
    num_agents: AgentCount | None = None
    strategy: Literal["council"] = "council"

    def digest(self) -> str:
        """SHA-256 of the content."""
        return digest(self.model_dump(mode="json", exclude_defaults=True))


class StoryTransition(Model):
    story_id: Id
    from_phase: StoryPhase
    to_phase: StoryPhase
    timestamp: Time


# ── councils ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Agent(Model):
    agent_id: Id
    role: Role
    status: Literal["ready", "busy", "offline"] = "ready"


class Council(Model):
    council_id: Id
    role: Role
    num_agents: AgentCount
    agents: tuple[Agent, ...]
    status: Literal["active", "idle", "busy"] = "active"
    model: str | None = Field(None, description="What its agents think with, where the engine can; else its own model")
    deliberation_rounds: Rounds = 1
    agent_type: str

    @classmethod
    def of(cls, role: Role, size: int, model: str | None, agent_type: str) -> "Council":
        agents = tuple(Agent(agent_id=agent_id(role, number), role=role) for number in range(1, size + 1))
        return cls(
            council_id=f"council-{role.lower()}",
            role=role,
            num_agents=size,
            agents=agents,
            model=model,
            agent_type=agent_type,
        )


def agent_id(role: Role, number: int) -> str:
    """`agent-dev-001` for DEV and 1."""
    return f"agent-{role.lower()}-{number:03d}"


# ── deliberations ─────────────────────────────────────────────────────────────────────────────────────────────────


class Task(Model):
    """What a deliberation is about, frozen when it is accepted: everything an agent's prompt is made of."""

    deliberation_id: str
    role: Role
    task_id: str
    story_id: str | None = None
    plan_id: str | None = None
    task_description: str
    constraints: Constraints = Constraints()
    rounds: Rounds = 1
    agents: tuple[str, ...]
    timeout_ms: int
    model: str | None = Field(None, description="The council's model, else its role's; else the engine's own")
    adapter: str | None = Field(None, description="LoRA adapter of the role's model")
    temperature: float | None = Field(None, description="The role's, before it is spread over the agents")
    max_tokens: int | None = Field(None, description="The role's most tokens of one answer")
    queue: str | None = Field(None, description="What its agents' parts wait in")
    strategy: Literal["council"] = "council"
    replay_of: str | None = Field(None, description="The deliberation that this one repeats")
    created_at_ms: int


class Failure(Model):
    """Why an answer is none. `raw` keeps what the model said when it could not be read."""

    type: str
    message: Said
    raw: Said | None = None


class Generated(Model):
    """What the engine took for one answer; times in milliseconds, and what it did not measure is absent."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = Field(None, description="Of the prompt, what the engine had computed already")
    latency_ms: int = 0
    queue_ms: int | None = Field(None, description="Wait in the engine, until it began")
    first_token_ms: int | None = Field(None, description="Until its first token, that wait included")


class Answer(Generated):
    """What one agent answered in one step: `content` by the step's schema, or a failure."""

    agent_id: str
    step: str
    content: dict[str, Any] | None = None
    failure: Failure | None = None
    labels: dict[str, str] = Field(default_factory=dict, description="Label shown to the reviewer → author's agent id")
    reasoning: Said = ""
    model: Said | None = None
    temperature: float | None = None
    created_at_ms: int

    @property
    def ok(self) -> bool:
        return self.failure is None


class LintCheck(Model):
    passed: bool
    error_count: int = 0
    warning_count: int = 0
    errors: tuple[str, ...] = ()


class PolicyCheck(Model):
    passed: bool
    violations: tuple[str, ...] = ()


class DryRunCheck(Model):
    passed: bool
    output: str = ""
    exit_code: int | None = None


class AdditionalCheck(Model):
    check_type: str
    passed: bool
    score: float = Field(ge=0, le=1)
    message: str = ""


class Checks(Model):
    """What was checked; a check that did not run is absent, never passed."""

    policy: PolicyCheck | None = None
    lint: LintCheck | None = None
    dryrun: DryRunCheck | None = None
    additional_checks: tuple[AdditionalCheck, ...] = ()


class Proposal(Model):
    """A proposal as first made (`content` after the last revision; the earlier ones in `revisions`, oldest first)."""

    proposal_id: str
    author_id: str
    author_role: Role
    content: dict[str, Any]
    created_at_ms: int
    revisions: tuple[dict[str, Any], ...] = ()
    model: str | None = None
    temperature: float | None = None
    tokens: int = 0
    reasoning: str = Field("", description="What the model thought before `content`, where it told its thoughts apart")
    metadata: Generated | None = Field(None, description="Of `content`; `tokens` counts every version")


class RankedProposal(Model):
    proposal: Proposal
    checks: Checks
    check_score: float = Field(ge=0, le=1)
    peer_score: float | None = Field(None, ge=0, le=1, description="Normalised Borda; none without a valid ballot")
    score: float = Field(ge=0, le=1)
    rank: int = Field(ge=1)


class Ballot(Model):
    """One agent's order of the others' proposals, best first, by author; `valid` false when it could not be counted."""

    agent_id: str
    step: str
    ranking: tuple[str, ...] = ()
    valid: bool
    reason: str = ""


class FailedAnswer(Model):
    agent_id: str
    step: str
    failure: Failure


class Decision(Model):
    """The outcome, frozen before anything is written to the graph; every writer writes exactly this."""

    deliberation_id: str
    task: Task
    status: Literal[Status.COMPLETED, Status.PARTIAL, Status.FAILED, Status.CANCELLED]
    winner_id: str | None = Field(None, description="Agent id of the winning proposal's author")
    reason: str
    chosen_by: Literal["score", "none"] = "score"
    weights: dict[str, float] = Field(default_factory=dict)
    agreement: float | None = Field(None, ge=0, le=1, description="Kendall's W of the ballots; 1 is full agreement")
    results: tuple[RankedProposal, ...] = ()
    ballots: tuple[Ballot, ...] = ()
    failures: tuple[FailedAnswer, ...] = ()
    tokens: int = 0
    started_at_ms: int | None = None
    decided_at_ms: int
    error_message: str | None = None

    @property
    def duration_ms(self) -> int | None:
        """From the first agent's start to the decision."""
        return None if self.started_at_ms is None else self.decided_at_ms - self.started_at_ms

    @property
    def decision_id(self) -> str:
        return f"decision:{self.deliberation_id}"


class Deliberation(Model):
    """A deliberation as the API shows it (REFERENCE: the result)."""

    deliberation_id: str
    task_id: str
    role: Role
    story_id: str | None = None
    plan_id: str | None = None
    task_description: str
    replay_of: str | None = Field(None, description="The deliberation that this one repeats")
    model: str | None = Field(None, description="What its agents think with; the engine's own unless it has one")
    queue: str | None = Field(None, description="What its agents' parts wait in")
    status: Status
    step: str | None = Field(None, description='What runs now: "propose:0", "review:1", …, "record"')
    waiting_for: str | None = Field(None, description="What its agents wait for: a worker, or the engine's server")
    rounds: int
    agents: tuple[str, ...]
    expected_count: int
    current_count: int
    winner_id: str | None = None
    reason: str | None = None
    results: tuple[RankedProposal, ...] = ()
    ballots: tuple[Ballot, ...] = ()
    failures: tuple[FailedAnswer, ...] = ()
    agreement: float | None = None
    weights: dict[str, float] = Field(default_factory=dict)
    tokens: int = 0
    created_at_ms: int
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    duration_ms: int | None = Field(None, description="From the first agent's start to the decision")
    error_message: str | None = None

    @classmethod
    def of(cls, task: Task, status: Status, decision: Decision | None, **live: Any) -> "Deliberation":
        """A deliberation as people see it. `live` is what neither has: step, current_count and the times."""
        asked = cls.model_fields.keys() & Task.model_fields.keys()
        outcome = cls.model_fields.keys() & Decision.model_fields.keys() - asked - {"status", *live}
        return cls(
            **task.model_dump(include=asked),
            status=status,
            expected_count=len(task.agents),
            duration_ms=decision.duration_ms if decision else None,
            **{name: getattr(decision, name) for name in outcome if decision},
            **live,
        )


class DeliberationRef(Model):
    deliberation_id: str
    role: Role
    task_id: str
    status: Status = Status.PENDING


class PlanReceipt(Model):
    """The answer to a plan: the same for every delivery of it."""

    plan_id: str
    status: Literal["ACCEPTED"] = "ACCEPTED"
    deliberations: tuple[DeliberationRef, ...]
    notes: tuple[str, ...] = ()


class StoredPlan(Model):
    plan: PlanRequest
    receipt: PlanReceipt
    created_at_ms: int


class Death(Model):
    """The end of a process that a task was running in."""

    attempt: int = Field(description="Counted from 1")
    worker: str
    pid: int
    at_ms: int = Field(description="When the attempt was heard of last, by ValKey's clock")


class DeadLetter(Model):
    """What could not be processed: where it came from, why, and the message itself."""

    dead_letter_id: str
    source: str = Field(description="Subject or queue it came from")
    reason: str
    payload: str
    attempts: int = 1
    history: tuple[Death, ...] = Field((), description="Of what its worker died of: each of the deaths")
    created_at_ms: int


# ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def digest(value: Any) -> str:
    """SHA-256 (hexadecimal) of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def derive_id(*parts: str | None) -> str:
    """A UUIDv5 that is the same for the same parts, whatever characters they have."""
    return str(uuid.uuid5(NAMESPACE, json.dumps(parts)))


def find_cycle(edges: dict[str, Sequence[str]]) -> list[str] | None:
    """A path `[a, b, …, a]` along the edges, or None if there is none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return None
