"""Tasks and answers for tests."""

from collections.abc import Sequence
from typing import Any

from fleet.models import Answer, Constraints, Failure, Role, Task

IDS = tuple(f"agent-dev-{number:03d}" for number in range(1, 11))
Answers = dict[str, dict[str, Answer]]


def make_task(agents: int = 3, rounds: int = 1, **fields: Any) -> Task:
    fields = {"task_description": "Limit the rate of logins.", "constraints": Constraints(), **fields}
    return Task(
        deliberation_id="d-1",
        role=Role.DEV,
        task_id="t-1",
        rounds=rounds,
        agents=IDS[:agents],
        timeout_ms=1,
        created_at_ms=1,
        **fields,
    )


def make_content(name: str = "plain", **fields: Any) -> dict[str, Any]:
    return {
        "summary": f"Count failed logins, the {name} way",
        "approach": "A counter per account, emptied after a minute.",
        "steps": ["Add the counter", "Refuse at five"],
        "artifacts": [],
        "risks": [],
        "confidence": 70,
        **fields,
    }


def make_answer(agent: str, step: str, content: dict[str, Any] | None = None, **fields: Any) -> Answer:
    return Answer(agent_id=agent, step=step, content=content, created_at_ms=1, **fields)


def make_failed(agent: str, step: str, type: str = "engine", message: str = "out of memory") -> Answer:
    return make_answer(agent, step, failure=Failure(type=type, message=message))


def proposed(*agents: str) -> Answers:
    return {"propose:0": {agent: make_answer(agent, "propose:0", make_content(agent)) for agent in agents}}


def make_ballot(agent: str, order: Sequence[str], step: str = "vote:1", **content: Any) -> Answer:
    """Ranks these authors; its labels are in the order of their ids."""
    labels = dict(zip("ABCDEFGHIJ", sorted(order), strict=False))
    by_author = {author: label for label, author in labels.items()}
    ranking = ">".join(by_author[author] for author in order)
    return make_answer(agent, step, {"ranking": ranking, **content}, labels=labels)


def make_review(agent: str, order: Sequence[str], flaws: dict[str, str], round: int = 1) -> Answer:
    """Ranks these authors and names a flaw of some."""
    answer = make_ballot(agent, order, f"review:{round}")
    critiques = [
        {"label": label, "strength": "", "flaw": flaws.get(author, ""), "fix": ""}
        for label, author in answer.labels.items()
    ]
    return answer.model_copy(update={"content": {**(answer.content or {}), "critiques": critiques}})
