"""The steps of a deliberation: which comes next, who takes part, who failed.

propose:0 → review:1 → revise:1 → … → vote:{rounds} → end
"""

import math
from collections.abc import Mapping
from typing import Any

from fleet.models import Answer, FailedAnswer, Failure, Phase, Task, digest

Answers = Mapping[str, Mapping[str, Answer]]

PROPOSE = "propose:0"
# With two proposals every ballot has one candidate: a vote would tell nothing.
LEAST_VOTERS = 3


def quorum(task: Task) -> int:
    """Valid proposals needed for a decision: half of the agents, rounded up."""
    return math.ceil(len(task.agents) / 2)


def next_step(task: Task, step: str, answers: Answers, budget_ms: int) -> str | None:
    """The step after `step`, or None when it is time to decide.

    It is time when no time is left (`budget_ms` is 0 or less), when fewer valid proposals came than the quorum or than
    two, and after the vote. A revision that nobody has a critique for is left out, and so is a vote on two proposals.
    """
    if budget_ms <= 0 or len(authors(task, answers)) < max(2, quorum(task)):
        return None
    phase, round = parse(step)
    if phase is Phase.REVIEW and participants(task, f"{Phase.REVISE}:{round}", answers):
        return f"{Phase.REVISE}:{round}"
    if phase is Phase.VOTE:
        return None
    if round < task.rounds:
        return f"{Phase.REVIEW}:{round + 1}"
    return f"{Phase.VOTE}:{task.rounds}" if len(authors(task, answers)) >= LEAST_VOTERS else None


def participants(task: Task, step: str, answers: Answers) -> list[str]:
    """The agents asked in `step`, in the task's order: all for proposals, then the authors of valid ones.

    To revise, only those whom a critique of this round is about. Answers to `step` itself make no difference.
    """
    phase, _ = parse(step)
    if phase is Phase.PROPOSE:
        return list(task.agents)
    able = authors(task, answers)
    if phase is Phase.REVISE:
        return [author for author in able if critiques_for(author, step, answers)]
    return able if len(able) > 1 else []


def authors(task: Task, answers: Answers) -> list[str]:
    """Who made a valid proposal, in the task's order."""
    return [agent for agent in task.agents if valid(answers, PROPOSE, agent)]


def valid(answers: Answers, step: str, agent_id: str) -> dict[str, Any] | None:
    """What an agent answered in a step; None when it failed or did not answer."""
    answer = answers.get(step, {}).get(agent_id)
    return answer.content if answer and answer.ok else None


def critiques_for(author: str, step: str, answers: Answers) -> list[dict[str, Any]]:
    """What the reviewers said about this author in the round of `step`, anonymous: strength, flaw and fix.

    In an order that tells nothing about who said it; critiques without a word are left out.
    """
    given = answers.get(f"{Phase.REVIEW}:{parse(step)[1]}", {})
    said = [critique for answer in given.values() if answer.ok for critique in _about(author, answer)]
    return sorted((critique for critique in said if any(text.strip() for text in critique.values())), key=digest)


def failures(task: Task, answers: Answers) -> list[FailedAnswer]:
    """Every failed answer by step, and a failure of type "missing" for who was asked in a step and did not answer."""
    steps = sorted({PROPOSE, *answers}, key=_order)
    return [failure for step in steps for failure in _failures_in(task, step, answers)]


def parse(step: str) -> tuple[Phase, int]:
    """("review:2") → (Phase.REVIEW, 2)."""
    phase, _, round = step.partition(":")
    return Phase(phase), int(round)


def _failures_in(task: Task, step: str, answers: Answers) -> list[FailedAnswer]:
    given = answers.get(step, {})
    asked = participants(task, step, answers)
    missing = Failure(type="missing", message=f"gave no answer to {step} before it was closed")
    found = []
    for agent in [*asked, *(agent for agent in given if agent not in asked)]:
        answer = given.get(agent)
        failure = missing if answer is None or (answer.ok and answer.content is None) else answer.failure
        if failure:
            found.append(FailedAnswer(agent_id=agent, step=step, failure=failure))
    return found


def _about(author: str, answer: Answer) -> list[dict[str, Any]]:
    if answer.agent_id == author:
        return []
    own = [label for label, shown in answer.labels.items() if shown == author]
    critiques = (answer.content or {}).get("critiques") or []
    return [
        {name: str(critique.get(name, "")) for name in ("strength", "flaw", "fix")}
        for critique in critiques
        if critique.get("label") in own
    ]


def _order(step: str) -> tuple[int, int]:
    phase, round = parse(step)
    return round, list(Phase).index(phase)
