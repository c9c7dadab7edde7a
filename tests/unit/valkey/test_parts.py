"""How reports of header tasks become what a body is called with."""

import pytest
from celery.exceptions import ChordError

from fleet.valkey.parts import Part, parse_part, part_field, partial_results, results

MISSING = {"state": "MISSING", "error": {"type": "ChordError", "message": "no result before the chord's deadline"}}


def part(index: float, result: object, state: str = "SUCCESS", task_id: str = "") -> Part:
    return Part(index, task_id or f"t{index}", state, result)


def ok(result: object) -> dict[str, object]:
    return {"state": "SUCCESS", "result": result}


def test_results_are_ordered_by_number_not_by_text() -> None:
    assert results([part(10, "k"), part(2, "c"), part(0, "a")], None) == ["a", "c", "k"]


def test_parts_without_an_index_come_last() -> None:
    assert results([part(float("inf"), "z"), part(3, "d")], None) == ["d", "z"]


def test_the_first_failure_in_header_order_is_told_with_its_cause() -> None:
    boom = ValueError("boom")
    with pytest.raises(ChordError, match=r"Dependency t1 raised ValueError\('boom'\)") as caught:
        results([part(2, KeyError("later"), "FAILURE"), part(1, boom, "FAILURE")], None)
    assert caught.value.__cause__ is boom


def test_a_nested_header_gets_nested_results() -> None:
    parts = [part(0, 1, task_id="a"), part(0, 2, task_id="b"), part(1, 3, task_id="c")]
    assert results(parts, [["b", "a"], "c"]) == [[2, 1], 3]


def test_partial_results_fill_the_gaps() -> None:
    failed = {"state": "FAILURE", "error": {"type": "ValueError", "message": "boom"}}
    assert partial_results([part(3, "d"), part(1, ValueError("boom"), "FAILURE")], None, 4) == [
        MISSING, failed, MISSING, ok("d")
    ]  # fmt: skip


def test_a_revoked_task_counts_as_failed() -> None:
    assert partial_results([part(0, RuntimeError("expired"), "REVOKED")], None, 1)[0]["state"] == "FAILURE"


def test_parts_that_share_an_index_leave_no_false_gap() -> None:
    parts = [part(0, "a", task_id="x"), part(0, "b", task_id="y"), part(1, "c", task_id="z")]
    assert partial_results(parts, None, 3) == [ok("a"), ok("b"), ok("c")]


def test_partial_results_of_a_nested_header_keep_its_nesting() -> None:
    assert partial_results([part(0, 1, task_id="a")], [["a", "b"], "c"], 3) == [[ok(1), MISSING], MISSING]


def test_a_part_survives_the_way_through_its_field() -> None:
    parsed = parse_part(part_field(7, "a:b"), [1, "a:b", "FAILURE", {"x": 1}], lambda error: ValueError(error))
    assert (parsed.index, parsed.task_id, parsed.failed) == (7.0, "a:b", True)
    assert isinstance(parsed.result, ValueError)
    assert parse_part(part_field(None, "t"), [1, "t", "SUCCESS", 5], ValueError).index == float("inf")
