"""What an earlier version of Fleet kept and sent is understood by this one; what a later one wrote is refused."""

import base64
import inspect
import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection

from fleet import events
from fleet.celery import app
from fleet.decode import decode_plan
from fleet.errors import InvalidRequest, UnknownFormat
from fleet.models import FORMAT_HEADER, DeadLetter, Decision, Model, Role, Status, StoredPlan, Task
from fleet.stack.celery_worker import CeleryWorker
from fleet.store import Store
from fleet.tasks.messages import Refused, check
from fleet.valkey.envelopes import Message
from tests import samples
from tests.harness import Neo4jServer, ValkeyServer, running, wait_until

VERSIONS = sorted(folder.name for folder in samples.FOLDER.glob("v*"))
IDS = ("5c973c79-837a-5b5b-9bdd-e94385fdf313", "d1cc9056-be9f-5f9a-be57-4f38d3214bf7")
LETTER = "edd542e0-482c-5e62-b049-a95379aa78be"

pytestmark = pytest.mark.parametrize("version", VERSIONS)


def event_types() -> list[type[events.Event]]:
    found, more = [], [events.Event]
    while more:
        kind = more.pop()
        more += kind.__subclasses__()
        found += [kind] if hasattr(kind, "SUBJECT") else []
    return found


@pytest.fixture
def client(valkey_server: ValkeyServer) -> "redis.Redis":
    return valkey_server.client()


@pytest.fixture
def store(client: "redis.Redis", version: str) -> Store:
    """One that an earlier version has filled."""
    samples.put(samples.read(version, "finished"), client, time.time())
    return Store(client)


def test_finished_deliberations_are_read_with_answers_and_decision(store: Store) -> None:
    for id in IDS:
        found, decision = store.deliberations.get(id), store.deliberations.decision(id)
        assert found is not None
        assert decision is not None
        assert found.status is decision.status is Status.COMPLETED
        assert decision.winner_id
        assert {step: len(given) for step, given in store.deliberations.answers(id).items()} == {
            "propose:0": 3, "review:1": 3, "revise:1": 3, "vote:1": 3,
        }  # fmt: skip


def test_plans_councils_keys_and_dead_letters_are_read(store: Store) -> None:
    plan, letter = store.submissions.plan("plan-1"), store.dead_letters.get(LETTER)
    assert plan is not None
    assert {one.deliberation_id for one in plan.receipt.deliberations} == set(IDS)
    assert letter is not None
    assert [death.worker for death in letter.history] == ["agents@host"]
    assert [council.role for council in store.councils.list()] == list(Role)
    assert [key.name for key in store.keys.list()] == ["someone"]


def test_every_event_of_the_log_is_one_of_ours(store: Store) -> None:
    logged = store.events.read(count=1000)
    known = {kind.SUBJECT: kind for kind in event_types()}
    assert {event.subject.split(".")[0] for event in logged} == {"orchestration", "agent", "context", "deadletter"}
    for event in logged:
        start = max((subject for subject in known if event.subject.startswith(subject)), key=len)
        read = known[start].model_validate_json(event.payload)
        assert read.subject == event.subject


def messages(version: str) -> list[dict[str, Any]]:
    keys = samples.read(version, "in_flight")["keys"]
    return [
        json.loads(text)
        for name, (kind, value) in keys.items()
        if kind == "list" and "wake" not in name
        for text in value
    ]


def received(payload: dict[str, Any]) -> Message:
    return Message(payload, channel=Connection("memory://").channel())


def test_the_message_of_every_task_still_fits_its_task(version: str) -> None:
    app.loader.import_default_modules()
    found = messages(version)
    assert {one["headers"]["task"] for one in found} == {
        "fleet.agent.answer", "fleet.council.advance", "fleet.council.close_step",
    }  # fmt: skip
    for one in found:
        check(app, received(one))
        *_, embed = json.loads(base64.b64decode(one["body"]))
        if body := embed["chord"]:
            inspect.signature(app.tasks[body["task"]].run).bind([], *body["args"], **body["kwargs"])


def test_a_message_in_a_later_format_is_refused_and_one_without_a_format_is_not(version: str) -> None:
    app.loader.import_default_modules()
    for one in messages(version):
        headers = one["headers"]
        check(app, received({**one, "headers": {**headers, FORMAT_HEADER: None, "new": "header"}}))
        with pytest.raises(Refused, match="its format is 2"):
            check(app, received({**one, "headers": {**headers, FORMAT_HEADER: 2}}))


def test_what_was_in_flight_is_finished_by_this_version(
    version: str, client: "redis.Redis", valkey_server: ValkeyServer, neo4j_empty: Neo4jServer, tmp_path: Path
) -> None:
    samples.put(samples.read(version, "in_flight"), client, time.time())
    env = {
        "FLEET_VALKEY_URL": valkey_server.url,
        "FLEET_ENGINE": "scripted",
        "FLEET_NATS_ENABLED": "false",
        "FLEET_NEO4J_URI": neo4j_empty.uri,
        "FLEET_NEO4J_USER": neo4j_empty.user,
        "FLEET_NEO4J_PASSWORD": neo4j_empty.password,
    }
    worker = CeleryWorker("w", "fleet", ["-Q", "agents,council", "-P", "threads"], tmp_path / "worker.log", env)
    store = Store(client)
    with running(worker):
        for id in IDS:
            assert wait_until(lambda id=id: ended(store, id), 60, f"{id} is final") is Status.COMPLETED  # type: ignore[misc]
            assert {len(given) for given in store.deliberations.answers(id).values()} == {3}


def ended(store: Store, id: str) -> Status | None:
    found = store.deliberations.get(id)
    return found.status if found and found.status.final else None


def documents(version: str) -> list[tuple[type[Model], str]]:
    keys = samples.read(version, "finished")["keys"]
    record = keys[f"fleet:deliberation:{IDS[0]}"][1]
    return [
        (Task, record["task"]),
        (Decision, record["decision"]),
        (DeadLetter, keys[f"fleet:deadletter:{LETTER}"][1]),
        (StoredPlan, keys["fleet:plan:plan-1"][1]["document"]),
    ]


def changed(document: str, **fields: Any) -> str:
    return json.dumps(json.loads(document) | fields)


def test_fields_of_a_later_version_are_ignored_and_its_format_is_refused(version: str) -> None:
    for kind, document in documents(version):
        assert kind.read(changed(document, new_field={"a": 1})) == kind.read(document)
        without = {name: value for name, value in json.loads(document).items() if name != "v"}
        assert kind.read(json.dumps(without)) == kind.read(document)
        with pytest.raises(UnknownFormat, match="upgrade Fleet"):
            kind.read(changed(document, v=2))
        with pytest.raises(UnknownFormat):
            kind.read(changed(document, v="9" * 5000))


def test_an_event_in_a_later_format_becomes_a_dead_letter_and_is_not_guessed_at(version: str) -> None:
    plan = json.loads(samples.read(version, "finished")["keys"]["fleet:plan:plan-1"][1]["document"])["plan"]
    assert decode_plan(json.dumps(plan | {"new": 1, "timestamp": "2026-01-01T00:00:00Z"}).encode()).plan_id == "plan-1"
    with pytest.raises(InvalidRequest, match="its format is 2"):
        decode_plan(json.dumps(plan | {"v": 2, "timestamp": "2026-01-01T00:00:00Z"}).encode())


def test_a_log_entry_in_a_later_format_is_refused(store: Store) -> None:
    store.client.xadd("fleet:events", {"v": 2, "subject": "x", "payload": "{}", "new": "1"})
    with pytest.raises(UnknownFormat):
        store.events.read(count=1000)
