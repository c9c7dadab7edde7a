"""The worst that can stand in a plan event or a queue: it becomes work or a dead letter, and work goes on."""

import json
from typing import Any

import pytest

from fleet.celery import app
from fleet.decode import MAX_BYTES
from fleet.events import PLAN_APPROVED, STORY_TRANSITIONED
from fleet.models import DeadLetter
from tests.harness import wait_until
from tests.integration.bus.harness import PLANS, TRANSITIONS, plan_event, transition_event
from tests.integration.input.conftest import SmallFleet

PLAN = plan_event("fine")
DEEP = b"[" * 10_000 + b"]" * 10_000


def added(field: bytes, value: bytes, event: bytes = PLAN) -> bytes:
    return event[:-1] + b', "' + field + b'": ' + value + b"}"


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(PLAN) | fields).encode()


# What is wrong with an event → the event, and what its dead letter has to say.
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not JSON"),
    "zeros": (b"\0" * 100, "not JSON"),
    "no UTF-8": (b'{"plan_id": "\xff\xfe\xfa"}', "not JSON"),
    "cut in a character": (plan_event("p", title="é")[:-4], "not JSON"),
    "half of it": (PLAN[: len(PLAN) // 2], "not JSON"),
    "deep arrays": (DEEP, "not JSON"),
    "deep objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "not JSON"),
    "endless digits": (added(b"rounds", b"9" * 5_000), "not JSON"),
    "an array": (b"[" + PLAN + b"]", "not a JSON object"),
    "a text": (json.dumps(PLAN.decode()).encode(), "not a JSON object"),
    "null": (b"null", "not a JSON object"),
    "4,000 digits": (added(b"rounds", b"9" * 4_000), "rounds"),
    "a float beyond floats": (added(b"rounds", b"1e400"), "rounds"),
    "NaN": (added(b"num_agents", b"NaN"), "num_agents"),
    "a number for an id": (changed(plan_id=7), "plan_id"),
    "a path for an id": (changed(plan_id="../../etc/passwd"), "plan_id"),
    "a subject for an id": (changed(plan_id="a.*.>"), "plan_id"),
    "a line break in an id": (changed(story_id="s\n"), "story_id"),
    "NUL in a text": (changed(description="a\0b"), "description"),
    "half a surrogate pair": (changed(title="\ud800"), "title"),
    "half a surrogate pair in a name": (changed(constraints={"metadata": {"\udfff": 1}}), "metadata"),
    "commands in a name": (changed(constraints={"metadata": {"\x1b[2J\nforged": 1}}), r"\x1b[2J\nforged"),
    "an unknown role of 900 kB": (changed(roles=["x" * 900_000]), "unknown role"),
    "a hundred thousand faults": (changed(roles=["x"] * 100_000), "unknown role"),
    "a role with a wildcard": (changed(roles=["DEV.>"]), "unknown role"),
    "a subtask that waits for itself": (
        changed(subtasks=[{"subtask_id": "a", "title": "A", "depends_on": ["a"]}]),
        "cyclic",
    ),
    "a time that is a number": (changed(timestamp=1763719200), "timestamp"),
}


def letters(fleet: SmallFleet) -> dict[str, DeadLetter]:
    return {one.payload: one for one in fleet.store.pages.dead_letters(1000).items}


def test_what_cannot_be_read_is_a_dead_letter_with_a_readable_reason_and_the_next_plan_is_decided(
    fleet: SmallFleet,
) -> None:
    streams = fleet.outside.stream("PLANNING_EVENTS")
    before = streams.state.messages if streams else 0
    fleet.outside.publish(PLAN_APPROVED, *(event for event, _ in UNREADABLE.values()))
    fleet.outside.publish(STORY_TRANSITIONED, b"\xff", transition_event("s", "LIMBO"), DEEP)
    fleet.outside.publish(PLAN_APPROVED, plan_event("after-the-worst", rounds=0))
    count = before + len(UNREADABLE) + 4
    wait_until(lambda: fleet.outside.settled(PLANS, count), 120)
    wait_until(lambda: fleet.outside.settled(TRANSITIONS, count, last=count - 1), 120)

    found = letters(fleet)
    for name, (event, reason) in UNREADABLE.items():
        letter = found[event[:MAX_BYTES].decode(errors="backslashreplace")]
        assert reason in letter.reason, name
        assert letter.reason.isprintable(), name
        assert len(letter.reason) <= 2_000, name
        assert letter.attempts == 1, name
    assert all(process.alive for process in fleet.processes)
    (asked,) = fleet.api.call("GET", "/v1/plans/after-the-worst").json["deliberations"]
    assert fleet.final(asked["deliberation_id"])["status"] == "COMPLETED"
    assert fleet.api.call("GET", "/v1/deadletters?limit=200").status == 200


# Odd, and yet what JSON and the models allow: plans that are decided and recorded.
ODD: dict[str, bytes] = {
    "a byte order mark": b"\xef\xbb\xbf" + plan_event("with-a-bom", rounds=0),
    "UTF-16": plan_event("in-utf-16", rounds=0).decode().encode("utf-16"),
    "a name twice": added(b"plan_id", b'"second"', plan_event("first", rounds=0)),
    "deep in a field that nobody knows": added(b"x", b"[" * 400 + b"]" * 400, plan_event("deep", rounds=0)),
    "from right to left": plan_event("rtl", rounds=0, title="\u202egnp.exe", description="\u2066\u202e\u2028\x85"),
    "terminal": plan_event("terminal", rounds=0, description="\x1b[2J\x1b]0;owned\x07\r\nforged: {}\x9b31m"),
    "the end of Unicode": plan_event("astral", rounds=0, description="\U0010ffff\ufffe\uffff\ufdd0 e\u0301" * 100),
    "as long as may be": plan_event("long", rounds=0, description="\U0001f600" * 20_000),
    "a whole number with a point": plan_event("floats", rounds=0.0, num_agents=2.0),
    "the first year": plan_event("first-year", rounds=0, timestamp="0001-01-01T00:00:00+14:00"),
}
PLAN_IDS = ["with-a-bom", "in-utf-16", "second", "deep", "rtl", "terminal", "astral", "long", "floats", "first-year"]


def test_what_is_odd_and_yet_allowed_is_decided_recorded_and_told(fleet: SmallFleet) -> None:
    fleet.outside.publish(PLAN_APPROVED, *ODD.values())
    for plan_id in PLAN_IDS:
        path = f"/v1/plans/{plan_id}"
        wait_until(lambda path=path: fleet.api.call("GET", path).status == 200, 120, f"{plan_id} is there")
        (asked,) = fleet.api.call("GET", path).json["deliberations"]
        found = fleet.final(asked["deliberation_id"])
        assert found["status"] == "COMPLETED", (plan_id, found["error_message"])
    relayed = {
        json.loads(message.data or b"{}").get("plan_id") for message in fleet.outside.messages("ORCHESTRATOR_EVENTS")
    }
    assert set(PLAN_IDS) <= relayed


# Whatever stands in a queue: (task, args, kwargs).
TASKS: list[tuple[str, Any, Any]] = [
    ("fleet.agent.answer", [], {}),
    ("fleet.agent.answer", ["unknown", "propose:0", "agent-dev-001"], {"about": {}}),
    ("fleet.agent.answer", [None, None, None, None], {}),
    ("fleet.agent.answer", ["a" * 1_000_000, "step", "*.>", {"role": "DEV", "task_id": "t"}], {}),
    ("fleet.agent.answer", ["x", "nothing:such", "\0", {"role": "PILOT"}, "../../queue"], {}),
    ("fleet.council.close_step", [], {}),
    ("fleet.council.close_step", [[], "unknown", "propose:0"], {}),
    ("fleet.council.close_step", [[], None, {"a": []}], {}),
    ("fleet.council.close_step", [{"a": 1}, "\u202e", "record"], {}),
    ("fleet.council.advance", ["unknown"], {}),
    ("fleet.council.advance", [[["deep"]]], {"x": 1}),
    ("fleet.no.such.task", [], {}),
]


RAW = (b"", b"\xff\xfe", b"null", b"[]", b"{}", DEEP, b'{"id": 1}', b'{"body": 1, "properties": [], "headers": 7}')


@pytest.mark.parametrize("queue", ["agents", "council"])
def test_a_worker_survives_whatever_stands_in_its_queue(fleet: SmallFleet, queue: str) -> None:
    with app.connection_for_write(fleet.valkey.url) as connection, connection.SimpleQueue(queue) as out:
        for name, args, kwargs in TASKS:
            app.send_task(name, args, kwargs, queue=queue, connection=connection)
        for body in RAW:
            out.put(body, content_type="application/json", content_encoding="utf-8")
            out.put(body, content_type="application/x-python-serialize", content_encoding="binary")
    with fleet.valkey.client() as client:
        for raw in RAW:
            client.lpush(queue, raw)
    asked = {"role": "QA", "task_description": f"after what stood in {queue}", "rounds": 0}
    id = fleet.api.call("POST", "/v1/deliberations", asked).json["deliberation_id"]
    assert fleet.final(id)["status"] == "COMPLETED"
    assert fleet.worker.alive
    wait_until(lambda: fleet.store.statistics.ready([queue])[queue] == 0, what="the queue is empty")
    wanted = {raw.decode(errors="replace") for raw in RAW}
    wait_until(lambda: wanted <= letters(fleet).keys(), 60, "all that was no message is a dead letter")
    assert all(one.reason.isprintable() for one in letters(fleet).values())
