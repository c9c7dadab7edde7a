import random

import pytest

from fleet.deliberation import selection
from fleet.deliberation.scoring import check_score
from fleet.models import AdditionalCheck, Checks, Decision, DryRunCheck, LintCheck, PolicyCheck, Status, Task, digest
from tests.unit.deliberation.making import (
    IDS,
    Answers,
    make_answer,
    make_ballot,
    make_content,
    make_failed,
    make_review,
    make_task,
    proposed,
)

ONE, TWO, THREE, FOUR = IDS[:4]
GOOD = Checks(lint=LintCheck(passed=True))
BAD = Checks(lint=LintCheck(passed=False, error_count=1))


def decided(task: Task, answers: Answers, checks: dict[str, Checks] | None = None) -> Decision:
    checks = dict.fromkeys(task.agents, GOOD) if checks is None else checks
    return selection.decide(task, answers, checks, decided_at_ms=9_000, started_at_ms=2_000)


def voted(*orders: tuple[str, ...], step: str = "vote:1") -> Answers:
    """Three proposals and the ballots of ONE, TWO and THREE, as many as are given."""
    ballots = {agent: make_ballot(agent, order, step) for agent, order in zip(IDS, orders, strict=False)}
    return {**proposed(ONE, TWO, THREE), step: ballots}


def order(decision: Decision) -> list[str]:
    assert [one.rank for one in decision.results] == list(range(1, len(decision.results) + 1))
    return [one.proposal.author_id for one in decision.results]


# ── proposals ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_proposal_is_its_last_valid_revision_and_keeps_the_earlier_ones() -> None:
    answers = proposed(ONE)
    revised = make_content("revised")
    answers["revise:1"] = {ONE: make_answer(ONE, "revise:1", revised, completion_tokens=7, prompt_tokens=3)}
    answers["revise:2"] = {ONE: make_failed(ONE, "revise:2")}
    (proposal,) = selection.proposals(make_task(3, rounds=2), answers)
    assert proposal.content == revised
    assert proposal.revisions == (make_content(ONE),)
    assert proposal.tokens == 10


def test_a_failed_revision_keeps_what_there_was_and_costs_nothing_but_a_mention() -> None:
    answers = voted((TWO, THREE), (ONE, THREE), (ONE, TWO))
    answers["revise:1"] = {ONE: make_failed(ONE, "revise:1")}
    answers["review:1"] = {TWO: make_review(TWO, [ONE, THREE], {ONE: "slow"})}
    decision = decided(make_task(), answers)
    assert decision.status is Status.COMPLETED
    assert decision.results[0].proposal.content == make_content(ONE)
    assert (ONE, "revise:1") in [(one.agent_id, one.step) for one in decision.failures]


def test_a_revision_without_a_first_proposal_is_none() -> None:
    answers = proposed(ONE, TWO)
    answers["propose:0"][THREE] = make_failed(THREE, "propose:0")
    answers["revise:1"] = {THREE: make_answer(THREE, "revise:1", make_content())}
    assert [proposal.author_id for proposal in selection.proposals(make_task(), answers)] == [ONE, TWO]


# ── ballots ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_labels_become_authors() -> None:
    (ballot,) = selection.ballots(make_task(), voted((THREE, TWO)))
    assert (ballot.agent_id, ballot.step, ballot.ranking, ballot.valid) == (ONE, "vote:1", (THREE, TWO), True)


def test_reviews_are_recorded_but_only_the_vote_counts() -> None:
    answers = voted((TWO, THREE), (ONE, THREE), (ONE, TWO))
    answers["review:1"] = {ONE: make_review(ONE, [THREE, TWO], {})}
    given = selection.ballots(make_task(), answers)
    assert [ballot.step for ballot in given] == ["review:1", "vote:1", "vote:1", "vote:1"]
    assert {ballot.step for ballot in selection.counted(make_task(), given)} == {"vote:1"}


def test_when_the_vote_has_no_valid_ballot_the_last_review_counts() -> None:
    answers = proposed(ONE, TWO, THREE)
    answers["review:1"] = {ONE: make_review(ONE, [TWO, THREE], {}, 1)}
    answers["review:2"] = {ONE: make_review(ONE, [THREE, TWO], {}, 2)}
    answers["vote:2"] = {ONE: make_failed(ONE, "vote:2")}
    task = make_task(rounds=2)
    given = selection.ballots(task, answers)
    assert [ballot.step for ballot in selection.counted(task, given)] == ["review:2"]
    decision = decided(task, answers)
    assert decision.winner_id == THREE
    assert "last review" in decision.reason


@pytest.mark.parametrize("ranking", ["A", "A>A", "A>B>C", "", "B>A>B", None, 7])
def test_a_ballot_that_is_no_order_is_kept_and_not_counted(ranking: object) -> None:
    answers = voted((TWO, THREE))
    answers["vote:1"][ONE] = make_ballot(ONE, [TWO, THREE], ranking=ranking)
    (ballot,) = selection.ballots(make_task(), answers)
    assert not ballot.valid
    assert ballot.reason
    assert selection.counted(make_task(), [ballot]) == []


def test_nobody_ranks_oneself_or_a_stranger() -> None:
    for wrong in (ONE, FOUR):
        answers = voted((TWO, wrong))
        (ballot,) = selection.ballots(make_task(), answers)
        assert not ballot.valid


# ── the decision ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_peers_decide_between_equal_checks() -> None:
    decision = decided(make_task(), voted((THREE, TWO), (THREE, ONE), (TWO, ONE)))
    assert order(decision) == [THREE, TWO, ONE]
    assert [one.peer_score for one in decision.results] == [1.0, 0.5, 0.0]
    assert [one.score for one in decision.results] == [1.0, 0.75, 0.5]
    assert decision.weights == {"checks": 0.5, "peers": 0.5}
    assert decision.agreement == 1.0
    assert decision.chosen_by == "score"
    assert (decision.status, decision.winner_id, decision.error_message) == (Status.COMPLETED, THREE, None)
    assert decision.duration_ms == 7_000


def test_a_bad_proposal_ranks_below_a_good_one() -> None:
    decision = decided(make_task(), voted((TWO, THREE), (ONE, THREE), (ONE, TWO)), {ONE: GOOD, TWO: GOOD, THREE: BAD})
    assert order(decision)[-1] == THREE
    assert decision.results[-1].score < decision.results[1].score


def test_the_reason_says_who_won_by_what_how_close_and_who_dissented() -> None:
    worse = Checks(lint=LintCheck(passed=False, error_count=3))
    decision = decided(
        make_task(), voted((THREE, TWO), (THREE, ONE), (ONE, TWO)), {ONE: GOOD, TWO: worse, THREE: worse}
    )
    assert decision.reason == (
        "agent-dev-001 won with a score of 0.75 (checks 1.00, peers 0.50), 0.12 ahead of agent-dev-003. "
        "The peers preferred agent-dev-003 (1.00) (3 ballots, agreement 1.00); agent-dev-002 ranked it last."
    )


def test_without_ballots_the_checks_decide_alone_and_it_is_said() -> None:
    decision = decided(make_task(), proposed(ONE, TWO, THREE), {ONE: BAD, TWO: GOOD, THREE: BAD})
    assert decision.winner_id == TWO
    assert decision.weights == {"checks": 1.0, "peers": 0.0}
    assert [one.peer_score for one in decision.results] == [None] * 3
    assert "The checks decided alone" in decision.reason
    assert decision.agreement is None


def test_who_was_ranked_by_nobody_neither_gains_nor_loses_by_it() -> None:
    decision = decided(make_task(), voted((THREE, TWO)))
    assert order(decision) == [THREE, ONE, TWO]
    assert [(one.peer_score, one.score) for one in decision.results] == [(1.0, 1.0), (None, 0.75), (0.0, 0.5)]


def test_a_tie_goes_to_the_better_checks_then_to_the_hash_of_the_content() -> None:
    answers = voted((TWO, THREE), (ONE, THREE))
    tied = selection.score(0.5, 1.0, {"checks": 0.5, "peers": 0.5})
    assert tied == selection.score(1.0, 0.5, {"checks": 0.5, "peers": 0.5})
    answers = voted((TWO, THREE), (THREE, ONE), (ONE, TWO))  # a circle: the peers give 0.5 to each
    decision = decided(make_task(), answers)
    assert order(decision) == sorted((ONE, TWO, THREE), key=lambda agent: digest(make_content(agent)))
    assert "level with" in decision.reason
    assert "hash" in decision.reason


@pytest.mark.parametrize(("favourite", "checked"), [(ONE, TWO), (TWO, ONE)])
def test_at_equal_scores_the_better_checks_win(favourite: str, checked: str) -> None:
    half = Checks(additional_checks=(AdditionalCheck(check_type="content", passed=False, score=0.5),))
    ballots = {
        favourite: make_ballot(favourite, (checked, THREE)),
        checked: make_ballot(checked, (favourite, THREE)),
        THREE: make_ballot(THREE, (favourite, checked)),
    }
    answers = {**proposed(ONE, TWO, THREE), "vote:1": ballots}
    decision = decided(make_task(), answers, {favourite: half, checked: GOOD, THREE: BAD})
    assert [one.score for one in decision.results[:2]] == [0.75, 0.75]
    assert decision.winner_id == checked
    assert "whose checks were weaker (0.50)" in decision.reason


def test_the_order_in_which_agents_answered_makes_no_difference() -> None:
    answers = voted((TWO, THREE), (THREE, ONE), (ONE, TWO))
    expected = decided(make_task(), answers)
    for seed in range(5):
        mixed = {
            step: dict(random.Random(seed).sample(list(given.items()), len(given))) for step, given in answers.items()
        }
        assert decided(make_task(), mixed) == expected


def test_two_proposals_are_decided_by_their_checks() -> None:
    answers = proposed(ONE, TWO)
    answers["review:1"] = {ONE: make_review(ONE, [TWO], {}), TWO: make_review(TWO, [ONE], {})}
    decision = decided(make_task(2), answers, {ONE: BAD, TWO: GOOD})
    assert (decision.status, decision.winner_id) == (Status.COMPLETED, TWO)
    assert "The checks decided alone" in decision.reason


def test_a_single_agents_proposal_wins_and_is_called_the_only_one() -> None:
    decision = decided(make_task(1), proposed(ONE))
    assert (decision.status, decision.winner_id) == (Status.COMPLETED, ONE)
    assert decision.reason.endswith("it was the only valid proposal.")


def test_half_of_the_council_is_enough_for_a_partial_decision() -> None:
    answers = proposed(ONE, TWO)
    answers["propose:0"][THREE] = make_failed(THREE, "propose:0")
    decision = decided(make_task(4), answers)
    assert decision.status is Status.PARTIAL
    assert [(one.agent_id, one.failure.type) for one in decision.failures] == [(THREE, "engine"), (FOUR, "missing")]
    assert "No valid proposal came from agent-dev-003 and agent-dev-004." in decision.reason


def test_without_a_quorum_there_is_no_winner_and_every_failure_is_named() -> None:
    answers = proposed(ONE)
    answers["propose:0"][TWO] = make_failed(TWO, "propose:0", message="out of memory")
    decision = decided(make_task(3), answers)
    assert (decision.status, decision.winner_id, decision.chosen_by) == (Status.FAILED, None, "none")
    assert order(decision) == [ONE]
    assert decision.error_message == decision.reason
    assert decision.reason == (
        "1 valid proposal of 3; a decision needs 2. agent-dev-002: out of memory; "
        "agent-dev-003: gave no answer to propose:0 before it was closed."
    )


def test_when_all_failed_the_decision_says_so() -> None:
    answers = {"propose:0": {agent: make_failed(agent, "propose:0") for agent in IDS[:3]}}
    decision = decided(make_task(3), answers)
    assert (decision.status, decision.results, decision.ballots) == (Status.FAILED, (), ())
    assert decision.reason.startswith("0 valid proposals of 3")


def test_nothing_at_all_is_a_failure_too() -> None:
    decision = decided(make_task(2), {})
    assert decision.status is Status.FAILED
    assert len(decision.failures) == 2


def test_every_token_is_counted_those_of_failures_too() -> None:
    answers = proposed(ONE, TWO, THREE)
    answers["vote:1"] = {ONE: make_answer(ONE, "vote:1", {}, prompt_tokens=5, completion_tokens=6)}
    failed = make_failed(TWO, "vote:1").model_copy(update={"prompt_tokens": 7})
    answers["vote:1"][TWO] = failed
    assert decided(make_task(), answers).tokens == 18


# ── the check score ───────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_checked_is_worth_nothing() -> None:
    assert check_score(Checks()) == 0


def test_a_check_that_did_not_run_neither_helps_nor_harms() -> None:
    half = AdditionalCheck(check_type="content", passed=False, score=0.5)
    assert check_score(Checks(additional_checks=(half,))) == 0.5
    assert check_score(Checks(lint=LintCheck(passed=True), additional_checks=(half,))) == 0.75


def test_more_errors_are_worth_less_and_never_bar() -> None:
    scores = [check_score(Checks(lint=LintCheck(passed=False, error_count=count))) for count in (1, 2, 5)]
    assert scores == sorted(scores, reverse=True)
    assert 1 > scores[0] > scores[-1] > 0


def test_failed_policy_and_dry_run_count() -> None:
    good = check_score(Checks(policy=PolicyCheck(passed=True), dryrun=DryRunCheck(passed=True)))
    assert good == 1
    assert check_score(Checks(policy=PolicyCheck(passed=False), dryrun=DryRunCheck(passed=True))) == 0.5
