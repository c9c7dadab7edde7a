from fleet.deliberation.labels import shuffle
from tests.unit.deliberation.making import IDS


def test_ones_own_proposal_is_left_out_and_the_others_are_lettered() -> None:
    shown = shuffle("d-1", "review:1", IDS[1], IDS[:4])
    assert list(shown) == ["A", "B", "C"]
    assert sorted(shown.values()) == sorted({*IDS[:4]} - {IDS[1]})


def test_the_order_can_be_repeated_from_the_ids_alone() -> None:
    assert shuffle("d-1", "vote:1", IDS[0], IDS[:6]) == shuffle("d-1", "vote:1", IDS[0], IDS[5::-1])
    recorded = ["agent-dev-004", "agent-dev-002", "agent-dev-003"]
    assert list(shuffle("d-1", "vote:1", IDS[0], IDS[:4]).values()) == recorded, "decisions of the past change"


def test_each_deliberation_step_and_reviewer_has_an_order_of_its_own() -> None:
    orders = {
        tuple(shuffle(deliberation, step, agent, IDS[:8]).values())
        for deliberation in ("d-1", "d-2")
        for step in ("review:1", "vote:1")
        for agent in ("x", "y")
    }
    assert len(orders) == 8


def test_no_place_favours_an_author() -> None:
    firsts = [shuffle(f"d-{number}", "vote:1", IDS[0], IDS[:4])["A"] for number in range(300)]
    assert all(70 < firsts.count(author) < 130 for author in IDS[1:4])
