"""Why a proposal won, or why none did, in a sentence or two for people."""

from collections import Counter
from collections.abc import Sequence

from fleet.models import Ballot, FailedAnswer, RankedProposal, Task

_LONGEST_MESSAGE = 120


def no_quorum(task: Task, made: int, needed: int, failed: Sequence[FailedAnswer]) -> str:
    """Names every failure that kept a proposal from being made."""
    named = [f"{one.agent_id}: {_shortened(one.failure.message)}" for one in failed if one.step == "propose:0"]
    text = f"{_count(made, 'valid proposal')} of {len(task.agents)}; a decision needs {needed}"
    return f"{text}. {'; '.join(named)}." if named else f"{text}."


def won(
    results: Sequence[RankedProposal],
    deciding: Sequence[Ballot],
    agreement: float | None,
    failed: Sequence[FailedAnswer],
) -> str:
    """Who won and by what, how close it was, what the peers said, and who dissented. `results` are in order of rank.

    `deciding` are the ballots that counted, `agreement` is theirs.
    """
    peers = any(one.peer_score is not None for one in results)
    sentences = [_lead(results, peers), _opinion(results, deciding, agreement) if peers else _alone(results)]
    out = [one.agent_id for one in failed if one.step == "propose:0"]
    if out:
        sentences.append(f"No valid proposal came from {_list(out)}.")
    return " ".join(sentence for sentence in sentences if sentence)


def _lead(results: Sequence[RankedProposal], peers: bool) -> str:
    first = results[0]
    by = f"checks {first.check_score:.2f}" + (f", peers {_peer(first)}" if peers else "")
    text = f"{_name(first)} won with a score of {first.score:.2f} ({by})"
    if len(results) == 1:
        return f"{text}; it was the only valid proposal."
    second = results[1]
    if first.score > second.score:
        return f"{text}, {_margin(first.score - second.score)} ahead of {_name(second)}."
    if first.check_score > second.check_score:
        return f"{text}, level with {_name(second)}, whose checks were weaker ({second.check_score:.2f})."
    return f"{text}, level with {_name(second)}; the tie was broken by the hash of the contents, which favours no one."


def _opinion(results: Sequence[RankedProposal], deciding: Sequence[Ballot], agreement: float | None) -> str:
    """What the peers preferred, how far they agreed and who ranked the winner last."""
    winner = results[0].proposal.author_id
    best = max(one.peer_score for one in results if one.peer_score is not None)
    favourites = [_name(one) for one in results if one.peer_score == best]
    if favourites == [winner]:
        text = "The peers preferred it too"
    elif winner in favourites:
        text = f"The peers liked {_list(favourites)} equally"
    else:
        text = f"The peers preferred {_list(favourites)} ({best:.2f})"
    steps = Counter(ballot.step.partition(":")[0] for ballot in deciding)
    kind = "ballot" if "vote" in steps else "ranking from the last review"
    text += f" ({_count(len(deciding), kind)}" + (f", agreement {agreement:.2f})" if agreement is not None else ")")
    against = [ballot.agent_id for ballot in deciding if len(ballot.ranking) > 1 and ballot.ranking[-1] == winner]
    return f"{text}; {_list(against)} ranked it last." if against else f"{text}."


def _alone(results: Sequence[RankedProposal]) -> str:
    if len(results) == 1:
        return ""
    return "The checks decided alone: no valid ballot compared the proposals."


def _peer(one: RankedProposal) -> str:
    return "without an opinion" if one.peer_score is None else f"{one.peer_score:.2f}"


def _name(one: RankedProposal) -> str:
    return one.proposal.author_id


def _margin(difference: float) -> str:
    return "less than 0.01" if difference < 0.005 else f"{difference:.2f}"


def _count(number: int, what: str) -> str:
    head, _, tail = what.partition(" ")
    plural = what if number == 1 else f"{head}s {tail}".strip() if head != "valid" else f"{what}s"
    return f"{number} {plural}"


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"
