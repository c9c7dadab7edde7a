"""With a key for signatures a worker runs what was signed with it, and nothing else."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from fleet.dispatch import ADVANCE, FIRST_STEP, lane
from fleet.store.base import UNACKED
from fleet.valkey.signing import Signer
from tests.harness import ValkeyServer, wait_until
from tests.integration.security.conftest import Bench
from tests.integration.security.test_messages import task

OLD, NEW, OTHER = (letter * 32 for letter in "one")
NO_SIGNATURE = "it has no signature of one of the keys in FLEET_TASK_SIGNING_KEY"
PARTS = lane("agents", FIRST_STEP)


@pytest.fixture
def signing(new_bench: Callable[..., Bench], valkey_server: ValkeyServer) -> Bench:
    return new_bench(valkey_url=valkey_server.url, task_signing_key=f"{NEW},{OLD}")


def test_what_any_of_the_keys_signed_is_run_and_what_none_did_is_a_dead_letter(signing: Bench) -> None:
    signing.worker("agents,council")
    for key in (OLD, NEW):
        signing.await_decided(signing.deliberate(signing.dispatcher(Signer([key]))))
    assert signing.letters() == []
    signing.deliberate(signing.dispatcher(Signer([OTHER])))
    signing.store.client.lpush("council", task(ADVANCE, ("some-id",)))
    letters = signing.await_letters(3)  # two agents' parts, and the message without a signature
    assert all(NO_SIGNATURE in letter.reason for letter in letters)


def change(message: str, headers: dict[str, Any] | None = None, body: Callable[[Any], Any] | None = None) -> str:
    found = json.loads(message)
    found["headers"].update(headers or {})
    if body:
        changed = body(json.loads(base64.b64decode(found["body"])))
        found["body"] = base64.b64encode(json.dumps(changed).encode()).decode()
    return json.dumps(found)


def test_a_signed_message_that_was_changed_is_not_run(signing: Bench) -> None:
    id = signing.deliberate(signing.dispatcher(Signer([NEW])))
    client = signing.store.client
    one, two = (client.rpop(PARTS) for _ in range(2))
    forged = [
        change(one, headers)
        for headers in (
            {"id": "another"},
            {"task": ADVANCE},
            {"group": "another"},
            {"group_index": 7},
            {"retries": 1},
            {"eta": "2030-01-01T00:00:00+00:00"},
            {"timelimit": [1, 1]},
            {"chord_body_of": "another"},
            {"ignore_result": False},
            {"signature": "0" * 64},
            {"signature": None},
            {"signature": json.loads(two)["headers"]["signature"]},
        )
    ]
    forged.append(change(one, body=lambda body: [[*body[0][:2], "agent-dev-009"], *body[1:]]))
    forged.append(change(one, body=lambda body: [*body[:2], {**body[2], "chord": None}]))
    forged.append(change(one, body=lambda body: [*body[:2], {**body[2], "callbacks": [body[2]["chord"]]}]))
    client.lpush("agents", *forged)
    signing.worker("agents,council")
    letters = signing.await_letters(len(forged))
    assert len(letters) == len(forged)
    assert all(NO_SIGNATURE in letter.reason for letter in letters)
    where = signing.store.deliberations.where(id)
    assert where is not None
    assert (where.step, signing.store.deliberations.answers(id)) == (FIRST_STEP, {})
    client.lpush(PARTS, change(one), two)  # the same in another order, and after a redelivery, is what was signed
    signing.await_decided(id)


def test_a_chord_whose_stored_body_was_changed_calls_nothing(signing: Bench) -> None:
    id = signing.deliberate(signing.dispatcher(Signer([NEW])))
    key = f"celery-taskset-meta-{id}.{FIRST_STEP}.chord"
    client = signing.store.client
    client.hset(key, "body", client.hget(key, "body").replace(FIRST_STEP, "vote:2"))
    worker = signing.worker("agents,council")
    wait_until(lambda: "is not signed by one of this worker's keys" in worker.output(), 60, "the worker says so")
    wait_until(lambda: not client.hlen(UNACKED), 60, "the parts have ended")
    where = signing.store.deliberations.where(id)
    assert where is not None
    assert where.step == FIRST_STEP
