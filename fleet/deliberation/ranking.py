"""Adding up ballots that do not all rank the same candidates: every voter leaves its own proposal out."""

from collections.abc import Collection, Mapping, Sequence

Ballots = Sequence[Sequence[str]]


def borda(ballots: Ballots, candidates: Sequence[str]) -> dict[str, float | None]:
    """Each candidate's mean place over the ballots it is on: 1 first on all of them, 0 last on all, None if on none.

    On a ballot of m candidates the place p = 0 … m-1 is worth (m-1-p) / (m-1), so that ballots of every length weigh
    the same. A ballot of one candidate says nothing and does not count. Who is no candidate is passed over.

    Source: J.-C. de Borda, Mémoire sur les élections au scrutin (1781); normalised by the length of each ballot.
    """
    worth: dict[str, list[float]] = {candidate: [] for candidate in candidates}
    for ballot in _comparing(ballots, candidates):
        for place, candidate in enumerate(ballot):
            worth[candidate].append(1 - place / (len(ballot) - 1))
    return {candidate: sum(each) / len(each) if each else None for candidate, each in worth.items()}


def kendall_w(ballots: Ballots, candidates: Sequence[str]) -> float | None:
    """How far the ballots agree: 1 as much as they can, 0 not at all; None when they could not have disagreed.

    It is S / S_max, with S the sum over candidates of their squared sums of ranks (each rank less its ballot's mean)
    and S_max the same S had every ballot been in the ballots' common order. When all ballots rank all candidates this
    is Kendall's W; when each leaves one's own out and nobody abstains (a balanced design) it is Durbin's extension of
    W. After abstentions it is an approximation, held to 1.

    Sources: M. G. Kendall and B. Babington Smith, The problem of m rankings, Annals of Mathematical Statistics 10
    (1939); J. Durbin, Incomplete blocks in ranking experiments, British Journal of Psychology 4 (1951).
    """
    counted = _comparing(ballots, candidates)
    if not _can_disagree(counted):
        return None
    sums = _rank_sums(counted)
    appearances = {name: sum(name in ballot for ballot in counted) for name in sums}
    common = sorted(sums, key=lambda name: (sums[name] / appearances[name], name))
    agreed = [sorted(ballot, key=common.index) for ballot in counted]
    return min(1.0, _squares(sums) / _squares(_rank_sums(agreed)))


def _comparing(ballots: Ballots, candidates: Collection[str]) -> list[list[str]]:
    """The ballots without strangers, and only those that compare two candidates or more."""
    known = [[name for name in ballot if name in candidates] for ballot in ballots]
    return [ballot for ballot in known if len(ballot) > 1]


def _can_disagree(ballots: Ballots) -> bool:
    """Whether some ballot compares two candidates that the ballots before it compare too, if only by way of others."""
    groups: list[set[str]] = []
    for ballot in ballots:
        touched = [group for group in groups if group & set(ballot)]
        if any(len(group & set(ballot)) > 1 for group in touched):
            return True
        groups = [group for group in groups if group not in touched] + [set(ballot).union(*touched)]
    return False


def _rank_sums(ballots: Ballots) -> dict[str, float]:
    sums: dict[str, float] = {}
    for ballot in ballots:
        for place, name in enumerate(ballot):
            sums[name] = sums.get(name, 0.0) + place - (len(ballot) - 1) / 2
    return sums


def _squares(sums: Mapping[str, float]) -> float:
    return sum(value * value for value in sums.values())
