"""From answers to a decision: proposals, ballots, scores, the winner and why."""

from collections.abc import Mapping, Sequence
from typing import Literal

from fleet.deliberation import ranking, reasons
from fleet.deliberation.answers import read_ranking
from fleet.deliberation.scoring import check_score
from fleet.deliberation.steps import PROPOSE, Answers, authors, failures, quorum
from fleet.errors import Unreadable
from fleet.models import (
    Answer,
    Ballot,
    Checks,
    Decision,
    Generated,
    Phase,
    Proposal,
    RankedProposal,
    Status,
    Task,
    digest,
)

_WEIGHTS = {"checks": 0.5, "peers": 0.5}
_CHECKS_ALONE = {"checks": 1.0, "peers": 0.0}
# What a proposal gets from the peers when nobody ranked it but others were: the mean of every ballot, so no opinion.
_UNRANKED = 0.5


def proposals(task: Task, answers: Answers) -> list[Proposal]:
    """The valid proposals as last revised, in the task's order; a failed revision leaves what there was."""
    return [_proposal(task, author, answers) for author in authors(task, answers)]


def ballots(task: Task, answers: Answers) -> list[Ballot]:
    """Every ranking that was asked for, of reviews and the vote, by step and in the task's order of agents.

    Labels are resolved to authors. A failed answer, an order that is not one of all labels and a ranking of one's own
    proposal make a ballot that is not valid and says why. Which of them count: `counted`.
    """
    steps = [f"{Phase.REVIEW}:{round}" for round in range(1, task.rounds + 1)] + [f"{Phase.VOTE}:{task.rounds}"]
    able = authors(task, answers)
    return [
        _ballot(answers[step][agent], able)
        for step in steps
        if step in answers
        for agent in able
        if agent in answers[step]
    ]


def counted(task: Task, given: Sequence[Ballot]) -> list[Ballot]:
    """The ballots that decide: the valid ones of the vote; if there are none, of the last review that has any."""
    steps = [f"{Phase.VOTE}:{task.rounds}"] + [f"{Phase.REVIEW}:{round}" for round in range(task.rounds, 0, -1)]
    for step in steps:
        if found := [ballot for ballot in given if ballot.step == step and ballot.valid]:
            return found
    return []


def score(check: float, peers: float | None, weights: Mapping[str, float]) -> float:
    """The weighted mean of both, 0 to 1; without an opinion of the peers theirs is taken to be 0.5."""
    return round(weights["checks"] * check + weights["peers"] * (_UNRANKED if peers is None else peers), 6)


def decide(
    task: Task,
    answers: Answers,
    checks: Mapping[str, Checks],
    *,
    decided_at_ms: int,
    started_at_ms: int | None,
) -> Decision:
    """The decision: the best proposal by checks and peers, or why there is none.

    COMPLETED when every agent made a valid proposal, PARTIAL when at least half did (rounded up), else FAILED. Ranked
    by score, then by check score, then by SHA-256 of the content, never by the order of agents. The peers count only if
    a valid ballot compares two proposals; `weights` says what was used.
    """
    made, given = proposals(task, answers), ballots(task, answers)
    deciding, names = counted(task, given), [proposal.author_id for proposal in made]
    orders = [ballot.ranking for ballot in deciding]
    peers, agreement = ranking.borda(orders, names), ranking.kendall_w(orders, names)
    weights = _CHECKS_ALONE if all(value is None for value in peers.values()) else _WEIGHTS
    results = _ranked(made, checks, peers, weights)
    status, failed = _status(task, made), failures(task, answers)
    if status is Status.FAILED:
        reason = reasons.no_quorum(task, len(made), quorum(task), failed)
    else:
        reason = reasons.won(results, deciding, agreement, failed)
    return Decision(
        deliberation_id=task.deliberation_id,
        task=task,
        status=status,
        winner_id=None if status is Status.FAILED else results[0].proposal.author_id,
        reason=reason,
        chosen_by="none" if status is Status.FAILED else "score",
        weights=weights,
        agreement=agreement,
        results=results,
        ballots=tuple(given),
        failures=tuple(failed),
        tokens=sum(_tokens(answer) for given_in in answers.values() for answer in given_in.values()),
        started_at_ms=started_at_ms,
        decided_at_ms=decided_at_ms,
        error_message=reason if status is Status.FAILED else None,
    )


def _status(task: Task, made: Sequence[Proposal]) -> Literal[Status.COMPLETED, Status.PARTIAL, Status.FAILED]:
    if len(made) < quorum(task):
        return Status.FAILED
    return Status.COMPLETED if len(made) == len(task.agents) else Status.PARTIAL


def _proposal(task: Task, author: str, answers: Answers) -> Proposal:
    steps = [PROPOSE, *(f"{Phase.REVISE}:{round}" for round in range(1, task.rounds + 1))]
    given = [answers[step][author] for step in steps if author in answers.get(step, {})]
    versions = [one for one in given if one.ok and one.content is not None]
    first, last = given[0], versions[-1]
    return Proposal(
        proposal_id=f"proposal:{task.deliberation_id}:{author}",
        author_id=author,
        author_role=task.role,
        content=last.content or {},
        created_at_ms=first.created_at_ms,
        revisions=tuple(one.content or {} for one in versions[:-1]),
        model=first.model,
        temperature=first.temperature,
        tokens=sum(map(_tokens, given)),
        reasoning=last.reasoning,
        metadata=Generated(**last.model_dump(include=set(Generated.model_fields))),
    )


def _ballot(answer: Answer, able: Sequence[str]) -> Ballot:
    shape = {"agent_id": answer.agent_id, "step": answer.step}
    if answer.failure:
        return Ballot(**shape, valid=False, reason=answer.failure.message)
    try:
        order = read_ranking(answer.content or {}, list(answer.labels))
    except Unreadable as error:
        return Ballot(**shape, valid=False, reason=str(error))
    ranked = tuple(answer.labels[label] for label in order)
    if answer.agent_id in ranked or len(set(ranked)) < len(ranked) or not set(ranked) <= set(able):
        return Ballot(**shape, ranking=ranked, valid=False, reason="it must rank the others' proposals, each once")
    return Ballot(**shape, ranking=ranked, valid=True)


def _ranked(
    made: Sequence[Proposal],
    checks: Mapping[str, Checks],
    peers: Mapping[str, float | None],
    weights: Mapping[str, float],
) -> tuple[RankedProposal, ...]:
    results = []
    for proposal in made:
        checked = checks.get(proposal.author_id, Checks())
        check, peer = check_score(checked), peers[proposal.author_id]
        total = score(check, peer, weights)
        results.append(
            RankedProposal(proposal=proposal, checks=checked, check_score=check, peer_score=peer, score=total, rank=1)
        )
    # The author decides last, and only between equal contents: the order must not depend on how they came in.
    results.sort(key=lambda one: (-one.score, -one.check_score, digest(one.proposal.content), one.proposal.author_id))
    return tuple(one.model_copy(update={"rank": rank}) for rank, one in enumerate(results, 1))


def _tokens(answer: Answer) -> int:
    return answer.prompt_tokens + answer.completion_tokens
