import itertools

import pytest

from fleet.deliberation.ranking import borda, kendall_w


def test_a_place_is_worth_the_same_on_short_and_long_ballots() -> None:
    assert borda(["abc", "abc"], "abc") == {"a": 1, "b": 0.5, "c": 0}
    assert borda(["ab", "bacd"], "abcd") == pytest.approx({"a": (1 + 2 / 3) / 2, "b": 0.5, "c": 1 / 3, "d": 0})


def test_leaving_oneself_out_does_not_cost_a_candidate_anything() -> None:
    # All three agree on a, b, c; each leaves its own letter out.
    assert borda(["bc", "ac", "ab"], "abc") == {"a": 1, "b": 0.5, "c": 0}


def test_who_is_on_no_ballot_has_no_score() -> None:
    assert borda(["bc"], "abc") == {"a": None, "b": 1, "c": 0}
    assert borda([], "ab") == {"a": None, "b": None}


def test_a_ballot_of_one_says_nothing() -> None:
    assert borda(["b", "a"], "ab") == {"a": None, "b": None}


def test_strangers_are_passed_over() -> None:
    assert borda(["xab", "x"], "ab") == {"a": 1, "b": 0}


def test_scores_average_one_half_however_the_ballots_fall() -> None:
    for ballots in itertools.product(itertools.permutations("bcd"), itertools.permutations("acd")):
        scores = borda(ballots, "abcd")
        appearances = {name: sum(name in ballot for ballot in ballots) for name in "abcd"}
        total = sum((scores[name] or 0) * appearances[name] for name in "abcd")
        assert total == pytest.approx(3.0)


def test_complete_ballots_give_kendalls_w() -> None:
    # W = 12 S / (m² (n³ - n)); rank sums 6, 8, 7, 9 of three judges give S = 5: W = 60 / 540.
    ballots = ["abcd", "dcab", "bcad"]
    sums = {name: sum(ballot.index(name) + 1 for ballot in ballots) for name in "abcd"}
    s = sum((value - 7.5) ** 2 for value in sums.values())
    assert kendall_w(ballots, "abcd") == pytest.approx(12 * s / (9 * 60))


def test_balanced_incomplete_ballots_give_durbins_w() -> None:
    # Four voters leave their own out: each pair meets on two ballots. W = 12 S / (λ² n (n² - 1)), λ = 2, n = 4.
    ballots = ["bcd", "dca", "abd", "cab"]
    sums = {name: sum(ballot.index(name) - 1 for ballot in ballots if name in ballot) for name in "abcd"}
    s = sum(value**2 for value in sums.values())
    assert s > 0
    assert kendall_w(ballots, "abcd") == pytest.approx(12 * s / (4 * 4 * 15))


@pytest.mark.parametrize("voters", ["abcde", "abc", "bd"])
def test_ballots_that_follow_one_order_agree_fully_even_after_abstentions(voters: str) -> None:
    assert kendall_w([[name for name in "abcde" if name != voter] for voter in voters], "abcde") == pytest.approx(1)


def test_a_circle_is_no_agreement() -> None:
    assert kendall_w(["bc", "ca", "ab"], "abc") == 0


def test_ballots_that_cannot_disagree_show_no_agreement() -> None:
    assert kendall_w([], "abc") is None
    assert kendall_w(["abc"], "abc") is None
    assert kendall_w(["ab", "bc"], "abc") is None
    assert kendall_w(["ab", "cd"], "abcd") is None
    assert kendall_w(["b", "a"], "ab") is None


def test_agreement_stays_between_none_and_full() -> None:
    orders = [list(itertools.permutations(set("abcd") - {voter})) for voter in "abc"]
    for ballots in itertools.product(*orders):
        assert 0 <= (kendall_w(ballots, "abcd") or 0) <= 1
