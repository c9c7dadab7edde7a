import json
from typing import Any

import pytest

from fleet.deliberation import schemas
from fleet.deliberation.answers import read, read_ranking
from fleet.errors import Unreadable
from tests.unit.deliberation.making import make_content

SCHEMA = schemas.proposal_schema(6_000)
TEXT = json.dumps(make_content())


def fault(text: str, finish_reason: str = "stop", schema: dict[str, Any] = SCHEMA) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        read(text, finish_reason, schema)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"  {TEXT}\n",
        f"```json\n{TEXT}\n```",
        f"```\n{TEXT}\n```\n",
        f"<think>is {{}} right?</think>\n{TEXT}",
        f"<think></think>```json\n{TEXT}\n```",
    ],
)
def test_an_answer_is_read_without_its_fence_and_thoughts(text: str) -> None:
    assert read(text, "stop", SCHEMA) == make_content()


@pytest.mark.parametrize(
    "text",
    [
        f"Sure! {TEXT}",
        f"{TEXT} Hope it helps",
        f"{TEXT}{TEXT}",
        "",
        "<think>{}",
        f"<think>{TEXT}",
        '{"a": NaN}',
        "[" * 100_000,
    ],
)
def test_anything_beside_the_object_is_not_json(text: str) -> None:
    assert fault(text).type == "not_json"


def test_a_name_given_twice_is_refused_rather_than_dropped() -> None:
    assert "twice" in str(fault(TEXT[:-1] + ', "summary": "another"}'))


def test_a_cut_answer_is_truncated_and_says_where() -> None:
    error = fault(TEXT[:40], "length")
    assert error.type == "truncated"
    assert "40 characters" in str(error)


def test_an_answer_cut_right_after_its_end_is_whole() -> None:
    assert read(TEXT, "length", SCHEMA) == make_content()


def test_text_that_cannot_be_stored_is_refused() -> None:
    assert fault(json.dumps(make_content(summary="\ud800"))).type == "not_json"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"confidence": 101}, "$.confidence"),
        ({"steps": []}, "$.steps"),
        ({"extra": 1}, "$"),
        ({"summary": "x" * 601}, "$.summary"),
    ],
)
def test_what_breaks_the_schema_is_named_with_its_place(change: dict[str, Any], where: str) -> None:
    error = fault(json.dumps(make_content(**change)))
    assert error.type == "schema"
    assert str(error).startswith(f"{where}: ")
    assert len(str(error)) < 400


def test_something_else_than_an_object_is_refused() -> None:
    assert fault("[]").type == "schema"
    assert fault("[]", schema={}).type == "schema"


def test_unicode_is_kept_as_it_is() -> None:
    content = make_content(summary="Zähle Anmeldungen 登録 🙂")
    assert read(json.dumps(content, ensure_ascii=False), "stop", SCHEMA) == content
    assert read(json.dumps(content, ensure_ascii=True), "stop", SCHEMA) == content


@pytest.mark.parametrize("ranking", ["B>A>C", "B > A > C", ["B", "A", "C"]])
def test_a_ranking_is_read_as_order_or_array(ranking: Any) -> None:
    assert read_ranking({"ranking": ranking}, "ABC") == ("B", "A", "C")


@pytest.mark.parametrize(
    ("ranking", "why"),
    [
        ("B>A", "missing C"),
        ("B>A>C>A", "repeated A"),
        ("B>A>D", "missing C"),
        ("B>A>D>C", "unknown D"),
        (["A", "A", "B"], "repeated A; missing C"),
        ("", "missing A, B, C"),
        ([1, 2, 3], "no ranking"),
        (None, "no ranking"),
    ],
)
def test_a_ranking_that_is_no_order_of_all_labels_is_refused(ranking: Any, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read_ranking({"ranking": ranking}, "ABC")
