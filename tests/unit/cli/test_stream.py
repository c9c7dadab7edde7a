"""Reading Server-Sent Events, however they are cut into pieces."""

import json

import pytest

from fleet.cli.stream import Event, frames

FIRST = {"text": "two\u2028lines"}
TEXT = (
    "retry: 1000\n\n"
    ": heartbeat\n\n"
    f"id: 1-0\nevent: a.b\ndata: {json.dumps(FIRST, ensure_ascii=False)}\n\n"
    "id: 2-0\nevent: c\ndata: {}\n\n"
    "id: 3-0\nevent: cut.short\ndata: {}\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_the_same_however_the_text_is_cut(size: int) -> None:
    pieces = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    assert list(frames(pieces)) == [None, Event("1-0", "a.b", FIRST), Event("2-0", "c", {})]


def test_an_id_alone_moves_the_place_and_is_no_event() -> None:
    assert list(frames(["id: 7-0\n\n"])) == [Event("7-0", "", {})]


def test_an_event_without_an_id_keeps_none() -> None:
    assert list(frames(['event: fleet.gap\ndata: {"after": "1"}\n\n'])) == [Event("", "fleet.gap", {"after": "1"})]
