"""What is read from a planning event, and what is said about one that cannot be."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from fleet.decode import MAX_BYTES, as_text, decode_plan, decode_transition
from fleet.errors import InvalidRequest, UnknownRole
from fleet.models import Role

PLAN = {"plan_id": "p", "story_id": "s", "approved_by": "po", "timestamp": "2025-11-21T10:00:00Z", "roles": ["DEV"]}
TRANSITION = {"story_id": "s", "from_phase": "DESIGN", "to_phase": "BUILD", "timestamp": "2025-11-21T10:00:00"}


def plan(**fields: Any) -> bytes:
    return json.dumps(PLAN | fields).encode()


def test_a_plan_event_is_read_and_unknown_fields_at_any_depth_are_tolerated() -> None:
    subtask = {"subtask_id": "a", "title": "A", "role": "QA", "estimate": 3}
    constraints = {"rubric": "r", "mood": "good", "architect_rubric": {"k": 2, "x": 1}}
    decoded = decode_plan(plan(version=7, subtasks=[subtask], constraints=constraints))
    assert decoded.roles == (Role.DEV,)
    assert decoded.subtasks[0].role is Role.QA
    assert decoded.constraints.architect_rubric.k == 2


@pytest.mark.parametrize("field", ["plan_id", "story_id", "approved_by", "timestamp"])
@pytest.mark.parametrize("value", ["absent", None])
def test_an_event_without_a_required_field_says_which(field: str, value: str | None) -> None:
    document = {name: content for name, content in PLAN.items() if name != field}
    if value is None:
        document[field] = None
    with pytest.raises(InvalidRequest, match=field):
        decode_plan(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"plan_id": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (plan(plan_id="\ud800"), "plan_id"),
        (plan(timestamp="yesterday"), "timestamp"),
        (plan(subtasks=[{"subtask_id": "a", "title": "A", "depends_on": ["a"]}]), "cyclic"),
        (plan(description="x" * MAX_BYTES), "bytes are more than"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        decode_plan(data)


@pytest.mark.parametrize("fields", [{"roles": ["DEV", "PILOT"]}, {"subtasks": [{**PLAN, "role": "PILOT"}]}])
def test_an_unknown_role_anywhere_in_the_plan_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(UnknownRole, match="unknown role 'PILOT'"):
        decode_plan(plan(**fields))


def test_the_time_of_a_transition_without_a_zone_is_utc() -> None:
    assert decode_transition(json.dumps(TRANSITION).encode()).timestamp == datetime(2025, 11, 21, 10, tzinfo=UTC)


def test_a_transition_to_an_unknown_phase_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="to_phase"):
        decode_transition(json.dumps(TRANSITION | {"to_phase": "LIMBO"}).encode())


def test_a_message_is_kept_as_text_whatever_its_bytes() -> None:
    assert as_text(b"a\xffb") == "a\\xffb"
    assert len(as_text(b"x" * (MAX_BYTES + 1))) == MAX_BYTES
