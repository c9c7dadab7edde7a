"""Plans and decisions with every field in use."""

import uuid
from datetime import UTC, datetime
from typing import Any

from fleet.models import (
    AdditionalCheck,
    Ballot,
    Checks,
    Constraints,
    Decision,
    DryRunCheck,
    FailedAnswer,
    Failure,
    LintCheck,
    PlanReceipt,
    PlanRequest,
    PolicyCheck,
    Proposal,
    RankedProposal,
    Role,
    Status,
    StoredPlan,
    Subtask,
    Task,
)

AGENTS = ("agent-dev-001", "agent-dev-002", "agent-dev-003")

HOSTILE = (
    "'; MATCH (n) DETACH DELETE n //",
    '"}) DETACH DELETE n WITH 1 AS x MATCH (m) SET m.id = "x',
    "`) REMOVE n:Story //\\",
    "$id {id: 1} \\u0027 ${jndi} %s {0}",
    "line\nbreak\ttab\0nul\u2028 \u202eright to left \U0001f469\u200d\U0001f4bb \uffff e\u0301",
    "é" * 20_000,
)


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def plan(plan_id: str | None = None, story_id: str | None = None, **fields: Any) -> StoredPlan:
    """Subtasks: "design" (ARCHITECT) ← "build" (DEV) ← "verify" (QA), and "notes", which is nobody's."""
    request = PlanRequest(
        plan_id=plan_id or unique("plan"),
        story_id=story_id or unique("story"),
        **{
            "title": "Login with OAuth2",
            "description": "Users log in with the company's account.",
            "approved_by": "po@example.org",
            "roles": (Role.DEV, Role.QA),
            "complexity": "medium",
            "timestamp": datetime(2026, 3, 1, 12, 0, 0, 123456, UTC),
            "subtasks": (
                Subtask(subtask_id="design", title="Design it", role=Role.ARCHITECT),
                Subtask(subtask_id="build", title="Build it", description="x", role=Role.DEV, depends_on=("design",)),
                Subtask(subtask_id="verify", title="Test it", role=Role.QA, depends_on=("build",)),
                Subtask(subtask_id="notes", title="Write it down"),
            ),
            "constraints": Constraints(requirements=("PKCE",), metadata={"team": "a"}),
            **fields,
        },
    )
    receipt = PlanReceipt(plan_id=request.plan_id, deliberations=(), notes=("depends_on is not enforced",))
    return StoredPlan(plan=request, receipt=receipt, created_at_ms=1_772_366_400_000)


def task(of: StoredPlan | None = None, task_id: str = "build", **fields: Any) -> Task:
    origin = {"plan_id": of.plan.plan_id, "story_id": of.plan.story_id} if of else {}
    return Task(
        **{
            "deliberation_id": unique("deliberation"),
            "role": Role.DEV,
            "task_id": task_id,
            "task_description": "Build the login",
            "constraints": Constraints(rubric="short", cluster_spec="k8s", max_iterations=3, timeout_seconds=60),
            "rounds": 2,
            "agents": AGENTS,
            "timeout_ms": 60_000,
            "created_at_ms": 1_772_366_401_000,
            **origin,
            **fields,
        }
    )


def result(author: str, rank: int, **content: Any) -> RankedProposal:
    proposal = Proposal(
        proposal_id=unique("proposal"),
        author_id=author,
        author_role=Role.DEV,
        content={"summary": f"by {author}", "confidence": 70, "risks": [], "notes": None, "steps": ["a"], **content},
        created_at_ms=1_772_366_402_000 + rank,
        revisions=({"summary": "first", "nested": {"a": [1, 2.5, None, True]}}, {"summary": "second"}),
        model="smollm2",
        temperature=0.7,
        tokens=285,
    )
    checks = Checks(
        policy=PolicyCheck(passed=False, violations=("a secret",)),
        lint=LintCheck(passed=True, error_count=0, warning_count=2, errors=("W1",)),
        dryrun=DryRunCheck(passed=True, output="ok", exit_code=0),
        additional_checks=(AdditionalCheck(check_type="coverage", passed=True, score=1 / 3, message="1 of 3"),),
    )
    return RankedProposal(proposal=proposal, checks=checks, check_score=0.1, peer_score=0.7, score=1 / rank, rank=rank)


def decision(of: StoredPlan | None = None, **fields: Any) -> Decision:
    """Two proposals, valid and invalid ballots, and failures; `task` decides what it is about."""
    about: Task = fields.pop("task", None) or task(of)
    return Decision(
        **{
            "deliberation_id": about.deliberation_id,
            "task": about,
            "status": Status.PARTIAL,
            "winner_id": AGENTS[1],
            "reason": "best score",
            "weights": {"checks": 0.6, "peers": 0.4},
            "agreement": 0.25,
            "results": (result(AGENTS[1], 1), result(AGENTS[0], 2)),
            "ballots": (
                Ballot(agent_id=AGENTS[0], step="review:1", ranking=(AGENTS[1],), valid=True),
                Ballot(agent_id=AGENTS[2], step="review:1", ranking=(AGENTS[0], AGENTS[1]), valid=True),
                Ballot(agent_id=AGENTS[2], step="vote:2", ranking=(AGENTS[1], AGENTS[0]), valid=True),
                Ballot(agent_id=AGENTS[1], step="vote:2", ranking=("nobody",), valid=False, reason="unknown label"),
            ),
            "failures": (
                FailedAnswer(
                    agent_id=AGENTS[2],
                    step="propose:0",
                    failure=Failure(type="EngineTimeout", message="no answer", raw='{"summary": '),
                ),
            ),
            "tokens": 4711,
            "started_at_ms": 1_772_366_402_000,
            "decided_at_ms": 1_772_366_409_500,
            **fields,
        }
    )


def failed(of: StoredPlan | None = None, **fields: Any) -> Decision:
    return decision(
        of,
        **{
            "status": Status.FAILED,
            "winner_id": None,
            "chosen_by": "none",
            "reason": "no quorum",
            "results": (),
            "ballots": (),
            "agreement": None,
            "weights": {},
            "started_at_ms": None,
            "error_message": "0 of 3 proposals",
            **fields,
        },
    )


def cancelled(of: StoredPlan | None = None, **fields: Any) -> Decision:
    """As when it was cancelled after its first proposals."""
    return failed(of, **{"status": Status.CANCELLED, "reason": "cancelled", "error_message": "cancelled", **fields})
