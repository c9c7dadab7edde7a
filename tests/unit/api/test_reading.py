import json

import pytest

from fleet.api.paging import decode, encode
from fleet.api.problems import Refused
from fleet.api.reading import parse_json
from fleet.store.pages import Position


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "ü 🚢 \\u0000"]}, [], "text", 0, {"": {"": {}}}])
def test_what_is_valid_json_is_read_as_it_is(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"{'a': 1}", "is not valid JSON"),
        (b'{"a": 1} {}', "is not valid JSON"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1, "b": 2, "a": 3}', "the name 'a' is repeated"),
        (b'{"a": 1' + b"0" * 31 + b"}", "more than 30 digits"),
        (b'{"a": 1' + b"0" * 100_000 + b"}", "more than 30 digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": "\x00"}', "is not valid JSON"),
    ],
)
def test_what_is_no_valid_json_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_json(body)
    assert refused.value.faults[0].loc == ("body",)
    assert message in refused.value.faults[0].msg


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (rb'{"a": ["b", "\u0000"]}', ("body", "a", 1)),
        (rb'{"a": {"b\u0000c": 1}}', ("body", "a", "b�c")),
        (rb'{"a": "\ud800"}', ("body", "a")),
        (b"[" * 500 + rb'"\u0000"' + b"]" * 500, ("body", *[0] * 500)),
    ],
)
def test_a_text_that_cannot_be_stored_everywhere_is_refused_with_its_place(body: bytes, place: tuple[str]) -> None:
    with pytest.raises(Refused) as refused:
        parse_json(body)
    assert refused.value.faults[0].loc == place


def test_a_cursor_leads_back_to_its_position() -> None:
    position = Position(1763721600123.0, "a deliberation")
    assert decode(encode(position) or "") == position
    assert encode(None) is None


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "🚢",
        "bnVsbA",
        "WzFd",
        "WyJhIiwgImIiXQ",
        "WzEsIDJd",
        "Wy0xLCAiYSJd",
        "WzFlOTksICJhIl0",
        "W05hTiwgImEiXQ",
    ],
)
def test_a_cursor_that_no_list_gave_is_refused(cursor: str) -> None:
    with pytest.raises(Refused) as refused:
        decode(cursor)
    assert refused.value.faults[0].loc == ("query", "cursor")
