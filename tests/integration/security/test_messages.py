"""Messages that are no task of a worker's become dead letters, and the worker works on."""

import base64
import json
import pickle
import uuid
from typing import Any

import pytest
from celery.worker.control import Panel

from fleet.dispatch import ANSWER, CLOSE_STEP
from fleet.store.base import UNACKED
from fleet.tasks.messages import Consumer
from tests.harness import wait_until
from tests.integration.security.conftest import FLEET, GPU, Bench

ABOUT = {"about": {"role": "DEV", "task_id": "t"}}


def envelope(
    body: Any, headers: Any = None, content: str = "application/json", encoding: str = "utf-8", **fields: Any
) -> str:
    """A message as kombu puts it into a queue's list."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    properties = {
        "delivery_tag": str(uuid.uuid4()),
        "delivery_info": {"exchange": "", "routing_key": "any"},
        "body_encoding": "base64",
        "correlation_id": str(uuid.uuid4()),
    }
    message = {"body": base64.b64encode(raw).decode(), "content-type": content, "content-encoding": encoding}
    return json.dumps({**message, "headers": headers, "properties": properties, **fields})


def task(name: Any = ANSWER, args: Any = (), kwargs: Any = None, embed: Any = None, **headers: Any) -> str:
    body = [list(args) if isinstance(args, tuple) else args, {} if kwargs is None else kwargs, embed or {}]
    return envelope(body, {"task": name, "id": str(uuid.uuid4()), "lang": "py", **headers})


NO_TASKS: list[tuple[str | bytes, str]] = [
    # no message of kombu's
    ("not json", "no task's name"),
    (b"\xff\xfe\x00", "no task's name"),
    ("", "no task's name"),
    ('"text"', "no task's name"),
    ("[1, 2]", "no task's name"),
    ('{"body": "x"}', "no task's name"),
    ('{"properties": {}, "headers": "many"}', "no task's name"),
    ('{"properties": {"body_encoding": "rot13"}, "body": "x", "headers": {}}', "no task's name"),
    ('{"properties": {"delivery_info": "nowhere"}, "headers": {"task": "a", "id": "b"}}', "no task's name"),
    ('{"properties": {"__type__": "datetime", "__value__": 5}}', "no task's name"),
    # no message of Celery's
    (envelope({"hello": "there"}), "no task's name"),
    (envelope({"task": ANSWER, "id": "1", "args": []}), "no task's name"),
    (envelope([[], {}, {}], {"task": ["a"], "id": "1"}), "no task's name"),
    (envelope([[], {}, {}], {"task": ANSWER}), "no task's name"),
    (envelope([[], {}, {}], {"task": ANSWER, "id": {"a": 1}}), "no task's name"),
    (envelope(b"", {"task": ANSWER, "id": "1"}), "body"),
    (envelope(b"no json", {"task": ANSWER, "id": "1"}), f"{ANSWER}: its body cannot be read"),
    (envelope({"a": 1}, {"task": ANSWER, "id": "1"}), f"{ANSWER}: its body is not a list"),
    (envelope([["args"], {}], {"task": ANSWER, "id": "1"}), f"{ANSWER}: its body is not a list"),
    (envelope(["args", {}, {}], {"task": ANSWER, "id": "1"}), f"{ANSWER}: its body is not a list"),
    (
        envelope(b"x", {"task": ANSWER, "id": "1", "compression": "application/zip"}),
        f"{ANSWER}: its body cannot be read",
    ),
    (
        envelope(pickle.dumps([[], {}, {}]), {"task": ANSWER, "id": "1"}, "application/x-python-serialize", "binary"),
        "its content is application/x-python-serialize",
    ),
    (envelope([[], {}, {}], {"task": ANSWER, "id": "2"}, encoding="utf-16"), "its content is application/json, utf-16"),
    # no task of this worker's
    (task("os.system", ("ls",)), "there is no task 'os.system' here"),
    (task("x" * 5000), "there is no task 'xxx"),
    (task(args=("only one",)), f"{ANSWER}: missing a required argument: 'step'"),
    (task(args=("id", "propose:0", 5), kwargs=ABOUT), f"{ANSWER}: agent_id: Input should be a valid string"),
    (task(args=("id", "s", "a"), kwargs={"about": []}), f"{ANSWER}: about: Input should be a valid dictionary"),
    (task(args=("id", "s", "a"), kwargs={"about": {"role": "PILOT", "task_id": "t"}}), "'PILOT' is not a valid Role"),
    (task(args=("id", "s", "a"), kwargs={"about": {"role": "DEV"}}), f"{ANSWER}: about.task_id: Field required"),
    (task(args=("id", "s", "a"), kwargs={**ABOUT, "more": 1}), f"{ANSWER}: got an unexpected keyword argument"),
    (task(args=("id", "s", "a"), kwargs=ABOUT, embed={"chord": "what"}), f"{ANSWER}: chord is no signature"),
    (task(args=("id", "s", "a"), kwargs=ABOUT, embed={"callbacks": "all"}), f"{ANSWER}: callbacks is no list"),
    (task(args=("id", "s", "a"), kwargs=ABOUT, eta="soon"), "no valid task"),
    (task(args=("id", "s", "a"), kwargs=ABOUT, expires="never"), "no valid task"),
    (task(args=("id", "s", "a"), kwargs=ABOUT, timelimit="long"), "cannot be handled"),
]
COUNCILS = [(task(CLOSE_STEP, ([], "id")), f"{CLOSE_STEP}: missing a required argument: 'step'")]
NOT_THE_GPUS = [(task(CLOSE_STEP, ([], "id", "propose:0")), f"there is no task '{CLOSE_STEP}' here")]


@pytest.mark.parametrize(
    ("app", "queue", "messages"),
    [(FLEET, "agents", NO_TASKS + COUNCILS), (GPU, "gpu", NO_TASKS + NOT_THE_GPUS)],
    ids=["fleet", "gpu"],
)
def test_what_is_no_task_is_a_dead_letter_and_stops_nobody(
    bench: Bench, app: str, queue: str, messages: list[tuple[str | bytes, str]]
) -> None:
    bench.settings = bench.settings.model_copy(update={"agent_queue": queue})
    worker = bench.worker(queue, app)
    for raw, _ in messages:
        bench.store.client.lpush(queue, raw)
    letters = bench.await_letters(len(messages))
    reasons = sorted(letter.reason for letter in letters)
    missing = [why for _, why in messages if not any(why in reason for reason in reasons)]
    assert missing == [], reasons
    assert len(letters) == len(messages)
    assert {letter.source for letter in letters} == {"celery"}
    council = bench.worker("council")
    bench.await_decided(bench.deliberate(bench.dispatcher()))
    assert worker.alive
    assert council.alive
    assert worker.output().count(" ready.") == 1
    held = bench.store.client
    wait_until(lambda: not held.llen(queue) and not held.hlen(UNACKED), what="nothing is held")
    assert len(bench.letters()) == len(messages)


def test_a_letter_has_the_message_as_far_as_it_is_text(bench: Bench) -> None:
    bench.worker("agents")
    bench.store.client.lpush("agents", task("os.system", ("rm -r /",)))
    [letter] = bench.await_letters(1)
    found = json.loads(letter.payload)
    assert found["headers"]["task"] == "os.system"
    assert json.loads(found["body"]) == [["rm -r /"], {}, {}]
    bench.store.client.lpush("agents", b"caf\xc3\xa9 \xff")
    assert bench.await_letters(2)[0].payload == "café \ufffd"


def test_a_worker_holds_no_elections_which_would_have_it_sign_what_anybody_sends() -> None:
    assert not [step for step in Consumer.Blueprint.default_steps if "gossip" in step]
    assert "election" not in Panel.data
