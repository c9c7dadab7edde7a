import pytest

from fleet.deliberation import steps
from fleet.deliberation.steps import failures
from tests.unit.deliberation.making import (
    IDS,
    Answers,
    make_answer,
    make_ballot,
    make_failed,
    make_review,
    make_task,
    proposed,
)

ONE, TWO, THREE, FOUR = IDS[:4]


def reviewed(round: int = 1, **flaws: str) -> Answers:
    """Three reviews; each names the flaw of the authors given as one, two, three."""
    about = dict(zip((ONE, TWO, THREE), (flaws.get(name, "") for name in ("one", "two", "three")), strict=True))
    order = [ONE, TWO, THREE]
    reviews = {agent: make_review(agent, [x for x in order if x != agent], about, round) for agent in order}
    return {f"review:{round}": reviews}


def walk(rounds: int, answers: Answers, agents: int = 3) -> list[str]:
    step, taken = "propose:0", ["propose:0"]
    while (following := steps.next_step(make_task(agents, rounds), step, answers, 1_000)) is not None:
        taken.append(step := following)
        assert len(taken) < 20
    return taken


def test_a_deliberation_goes_through_every_round_to_the_vote() -> None:
    answers = {**proposed(ONE, TWO, THREE), **reviewed(1, one="late"), **reviewed(2, two="slow")}
    expected = ["propose:0", "review:1", "revise:1", "review:2", "revise:2", "vote:2"]
    assert walk(2, answers) == expected


def test_without_rounds_the_vote_follows_at_once() -> None:
    assert walk(0, proposed(ONE, TWO, THREE)) == ["propose:0", "vote:0"]


def test_a_vote_on_two_proposals_would_tell_nothing_and_is_left_out() -> None:
    assert walk(0, proposed(ONE, TWO), agents=2) == ["propose:0"]
    answers = {**proposed(ONE, TWO), "review:1": {ONE: make_review(ONE, [TWO], {TWO: "late"})}}
    assert walk(1, answers, agents=2) == ["propose:0", "review:1", "revise:1"]


@pytest.mark.parametrize(
    ("agents", "made", "goes_on"), [(1, 1, False), (2, 1, False), (3, 2, True), (5, 2, False), (5, 3, True)]
)
def test_below_the_quorum_or_two_proposals_it_is_time_to_decide(agents: int, made: int, goes_on: bool) -> None:
    following = steps.next_step(make_task(agents), "propose:0", proposed(*IDS[:made]), 1_000)
    assert (following == "review:1") is goes_on


def test_without_time_left_it_is_time_to_decide() -> None:
    for step in ("propose:0", "review:1", "revise:1"):
        assert steps.next_step(make_task(), step, proposed(ONE, TWO, THREE), 0) is None


def test_when_every_review_failed_nobody_revises() -> None:
    answers = {**proposed(ONE, TWO, THREE), "review:1": {agent: make_failed(agent, "review:1") for agent in IDS[:3]}}
    assert walk(1, answers) == ["propose:0", "review:1", "vote:1"]
    assert walk(2, answers) == ["propose:0", "review:1", "review:2", "vote:2"]


def test_only_authors_of_valid_proposals_go_on() -> None:
    answers = proposed(ONE, THREE, FOUR)
    answers["propose:0"][TWO] = make_failed(TWO, "propose:0")
    task = make_task(5)
    assert steps.participants(task, "propose:0", answers) == list(IDS[:5])
    assert steps.participants(task, "review:1", answers) == [ONE, THREE, FOUR]
    assert steps.participants(task, "vote:1", answers) == [ONE, THREE, FOUR]


def test_nobody_reviews_a_single_proposal() -> None:
    assert steps.participants(make_task(), "review:1", proposed(ONE)) == []


def test_only_who_was_criticised_revises() -> None:
    answers = {**proposed(ONE, TWO, THREE), **reviewed(1, two="slow", three="  ")}
    assert steps.participants(make_task(), "revise:1", answers) == [TWO]


def test_answers_to_a_step_do_not_change_who_was_asked() -> None:
    answers = {**proposed(ONE, TWO, THREE), **reviewed(1, two="slow")}
    answers["revise:1"] = {TWO: make_failed(TWO, "revise:1")}
    assert steps.participants(make_task(), "revise:1", answers) == [TWO]


def test_critiques_reach_their_author_without_a_trace_of_the_reviewer() -> None:
    answers = {**proposed(ONE, TWO, THREE), **reviewed(1, two="slow", three="late")}
    told = steps.critiques_for(TWO, "revise:1", answers)
    assert told == [{"strength": "", "flaw": "slow", "fix": ""}] * 2
    assert steps.critiques_for(ONE, "revise:1", answers) == []


def test_the_order_of_critiques_does_not_follow_the_reviewers() -> None:
    reviews = {agent: make_review(agent, [FOUR], {FOUR: f"flaw {agent}"}) for agent in IDS[:3]}
    backwards = dict(reversed(reviews.items()))
    told = steps.critiques_for(FOUR, "revise:1", {"review:1": reviews})
    assert len(told) == 3
    assert told == steps.critiques_for(FOUR, "revise:1", {"review:1": backwards})


def test_a_failed_review_says_nothing_and_critiques_are_those_of_the_round() -> None:
    answers: Answers = {
        "review:1": {ONE: make_review(ONE, [TWO], {TWO: "old"})},
        "review:2": {ONE: make_failed(ONE, "review:2")},
    }
    assert steps.critiques_for(TWO, "revise:2", answers) == []
    assert len(steps.critiques_for(TWO, "review:1", answers)) == 1
    half_read = make_review(ONE, [TWO], {TWO: "late"}).model_copy(update={"failure": answers["review:2"][ONE].failure})
    assert steps.critiques_for(TWO, "review:1", {"review:1": {ONE: half_read}}) == []


def test_failures_come_by_step_and_silence_is_one() -> None:
    answers = proposed(ONE, TWO, THREE)
    answers["vote:1"] = {ONE: make_ballot(ONE, [TWO, THREE]), TWO: make_failed(TWO, "vote:1")}
    answers["review:1"] = {agent: make_failed(agent, "review:1", "timeout") for agent in (ONE, TWO, THREE)}
    found = failures(make_task(4), answers)
    assert [(one.step, one.agent_id, one.failure.type) for one in found] == [
        ("propose:0", FOUR, "missing"),
        *(("review:1", agent, "timeout") for agent in (ONE, TWO, THREE)),
        ("vote:1", TWO, "engine"),
        ("vote:1", THREE, "missing"),
    ]


def test_steps_that_were_never_opened_are_no_failures() -> None:
    assert failures(make_task(), proposed(ONE, TWO, THREE)) == []


def test_a_proposal_without_content_is_no_proposal() -> None:
    answers = proposed(ONE, TWO)
    answers["propose:0"][THREE] = make_answer(THREE, "propose:0")
    assert steps.participants(make_task(), "review:1", answers) == [ONE, TWO]
    assert [one.agent_id for one in failures(make_task(), answers)] == [THREE]
