"""Whatever an event's bytes are, it is work that can be written everywhere, or refused with a readable reason."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.decode import MAX_BYTES, as_text, decode_plan, decode_transition, decode_work
from fleet.errors import InvalidRequest
from fleet.graph.record import transition_key, transition_properties
from fleet.models import DeadLetter, Decision, PlanReceipt, Status, StoredPlan, StoryTransition, Task

SUBTASK = {"subtask_id": "a", "title": "A", "description": "b", "role": "QA", "depends_on": []}
CONSTRAINTS = {
    "rubric": "r",
    "requirements": ["q"],
    "architect_rubric": {"k": 3, "criteria": "c"},
    "cluster_spec": "s",
    "max_iterations": 1,
    "timeout_seconds": 60,
    "metadata": {"key": "value"},
}
PLAN = {
    "plan_id": "p",
    "story_id": "s",
    "title": "t",
    "description": "d",
    "approved_by": "po",
    "timestamp": "2025-11-21T10:00:00Z",
    "roles": ["DEV"],
    "complexity": "x",
    "subtasks": [SUBTASK],
    "constraints": CONSTRAINTS,
    "rounds": 1,
    "num_agents": 3,
}
TRANSITION = {"story_id": "s", "from_phase": "DESIGN", "to_phase": "BUILD", "timestamp": "2025-11-21T10:00:00Z"}
TASK = Task(
    deliberation_id="d",
    role="DEV",
    task_id="t",
    task_description="x",
    agents=("agent-dev-001",),
    timeout_ms=1000,
    created_at_ms=1,
)
WORK = Decision(deliberation_id="d", task=TASK, status=Status.FAILED, reason="none", chosen_by="none", decided_at_ms=2)

NASTY_TEXTS = (
    *("\0", "a\0b", "\ud800", "x\udfff", "\ufeffBOM", "\u202egnp.exe", "a\nb\r\x1b[31mc", "\x7f\x9b", " ", ""),
    *("`}) DETACH DELETE n //", "${x}", "../../etc/passwd", "a.*.>", "1" * 5000, "\u2028", "\U0010ffff", "NaN"),
)
NASTY_NUMBERS = (
    *(0, -1, 2**31, 2**53, 2**63, 2**64, 10**40, -(10**400), 1e308, 5e-324, -0.0, 1.0, 1.5),
    *(float("inf"), float("-inf"), float("nan"), True, False, None),
)
TEXTS = st.text(max_size=20) | st.sampled_from(NASTY_TEXTS) | st.text(alphabet=st.characters(categories=["Cs", "Cc"]))
LEAVES = TEXTS | st.sampled_from(NASTY_NUMBERS) | st.integers() | st.floats()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something is in a document, from the whole to its leaves."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, member in members for place in places(member, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@st.composite
def near(draw: st.DrawFn, document: dict[str, Any]) -> bytes:
    """A valid document with up to three places changed, as JSON that may break its rules."""
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(places(document)))
        document = replaced(document, path, draw(VALUES))
        if not isinstance(document, dict):
            break
        if draw(st.booleans()):
            document = document | {draw(TEXTS): draw(VALUES)}
    return json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def torn(draw: st.DrawFn, document: dict[str, Any]) -> bytes:
    """The bytes of a valid document, cut somewhere and with others put in."""
    data = json.dumps(document).encode()
    at, to = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
    return data[:at] + draw(st.binary(max_size=8) | st.sampled_from([b'","', b"\xef\xbb\xbf", b"[" * 50])) + data[to:]


def like(document: dict[str, Any]) -> st.SearchStrategy[bytes]:
    return (
        near(document) | torn(document) | st.binary(max_size=50) | VALUES.map(lambda value: json.dumps(value).encode())
    )


def refused(error: InvalidRequest, data: bytes) -> None:
    """It can be kept as a dead letter, and its reason is one line that a terminal shows as it is."""
    letter = DeadLetter(dead_letter_id="1", source="s", reason=str(error), payload=as_text(data), created_at_ms=1)
    assert DeadLetter.model_validate_json(letter.dump()) == letter
    assert letter.reason
    assert letter.reason.isprintable(), letter.reason


def writable(document: Any) -> None:
    assert "\0" not in json.dumps(document, ensure_ascii=False).encode().decode()
    assert r"\u0000" not in json.dumps(document)


def check_plan(data: bytes) -> None:
    try:
        plan = decode_plan(data)
    except InvalidRequest as error:
        return refused(error, data)
    stored = StoredPlan(plan=plan, receipt=PlanReceipt(plan_id=plan.plan_id, deliberations=()), created_at_ms=1)
    assert StoredPlan.model_validate_json(stored.dump()).plan.digest() == plan.digest()
    return writable(plan.model_dump(mode="json"))


def check_transition(data: bytes) -> None:
    try:
        transition = decode_transition(data)
    except InvalidRequest as error:
        return refused(error, data)
    assert transition_key(StoryTransition.model_validate_json(transition.dump())) == transition_key(transition)
    return writable(transition_properties(transition))


def check_work(data: bytes) -> None:
    try:
        work = decode_work(data)
    except InvalidRequest as error:
        return refused(error, data)
    assert type(work).model_validate_json(work.dump()) == work
    return None


@given(like(PLAN))
@settings(max_examples=600, deadline=None, derandomize=True)
def test_any_plan_event_is_a_plan_or_a_readable_refusal(data: bytes) -> None:
    check_plan(data)


@given(like(TRANSITION))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_transition_is_one_or_a_readable_refusal(data: bytes) -> None:
    check_transition(data)


@given(like(json.loads(TASK.dump())) | like(json.loads(WORK.dump())))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_dead_letter_of_the_council_is_work_or_a_readable_refusal(data: bytes) -> None:
    check_work(data)


def plan(**fields: Any) -> bytes:
    return json.dumps(PLAN | fields).encode()


EXTREMES = {
    "deep arrays": b"[" * 10_000 + b"]" * 10_000,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep in an unknown field": plan()[:-1] + b', "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "a float beyond floats": plan()[:-1].replace(b'"rounds": 1', b'"rounds": 1e400') + b"}",
    "an integer beyond Python's texts": plan().replace(b'"rounds": 1', b'"rounds": ' + b"9" * 5_000),
    "an integer beyond all machines": plan().replace(b'"rounds": 1', b'"rounds": ' + b"9" * 4_000),
    "NaN": plan(rounds=float("nan")),
    "a name twice": plan()[:-1] + b', "plan_id": "q"}',
    "a megabyte": plan(description="x" * (MAX_BYTES - 1000)),
    "a megabyte of name": plan(**{"x" * (MAX_BYTES - 2000): 1}),
    "an unknown role of a megabyte": plan(roles=["x" * (MAX_BYTES - 2000)]),
    "a hundred thousand faults": plan(roles=["x"] * 100_000),
    "a hundred thousand subtasks": plan(subtasks=[1] * 100_000),
    "a byte order mark": b"\xef\xbb\xbf" + plan(),
    "UTF-16": plan().decode().encode("utf-16"),
    "UTF-32": plan().decode().encode("utf-32"),
    "a surrogate in a name": plan(constraints={"metadata": {"\ud800": "x"}}),
    "a surrogate in a name of a subtask": plan(subtasks=[{"\udfff": 1}]),
    "NUL in a name": plan(constraints={"metadata": {"a\0b": "x"}}),
    "a line break in a name": plan(constraints={"metadata": {"a\nb": 1}}),
    "a terminal's commands in a name": plan(constraints={"metadata": {"\x1b[2J": 1}}),
    "the year 1 in the east": plan(timestamp="0001-01-01T00:00:00+14:00"),
    "the last year in the west": plan(timestamp="9999-12-31T23:59:59-12:00"),
    "a time beyond time": plan(timestamp=1e300),
}


@pytest.mark.parametrize("data", EXTREMES.values(), ids=EXTREMES.keys())
def test_the_worst_plan_events_are_plans_or_readable_refusals(data: bytes) -> None:
    check_plan(data)
