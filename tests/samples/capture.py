"""Writes the samples of this version: `python -m tests.samples.capture v1`. Once a version is out, its samples stay."""

import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fleet.models import Death, PlanRequest
from fleet.stack.celery_worker import CeleryWorker
from fleet.store.keys import Scope
from tests.harness import Neo4jServer, ValkeyServer, running, wait_until
from tests.samples import FOLDER, Snapshot, take, write

PLAN = {"plan_id": "plan-1", "story_id": "story-1", "title": "Reset a password", "roles": ["DEV", "QA"]}


def main(version: str) -> None:
    folder = FOLDER / version
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        valkey = stack.enter_context(running(ValkeyServer(scratch / "valkey")))
        neo4j = stack.enter_context(running(Neo4jServer(scratch / "neo4j")))
        env = {
            "FLEET_VALKEY_URL": valkey.url, "FLEET_ENGINE": "scripted", "FLEET_NATS_ENABLED": "false",
            "FLEET_NEO4J_URI": neo4j.uri, "FLEET_NEO4J_USER": neo4j.user, "FLEET_NEO4J_PASSWORD": neo4j.password,
        }  # fmt: skip
        os.environ.update(env)
        with valkey.client() as client:
            store, ids = _submitted()
            write(_anonymous(take(client, time.time())), folder / "in_flight.json")
            worker = CeleryWorker("w", "fleet", ["-Q", "agents,council", "-P", "threads"], scratch / "w.log", env)
            with running(worker):
                wait_until(lambda: all(store.deliberations.get(id).status.final for id in ids), 60)
            write(_anonymous(take(client, time.time())), folder / "finished.json")


def _submitted() -> tuple[Any, list[str]]:
    """A plan that is dispatched, of which no worker has taken anything, a dead letter and a key."""
    from fleet.celery import app  # it reads the settings
    from fleet.dispatch import ADVANCE, COUNCIL_QUEUE, Dispatcher
    from fleet.settings import get_settings
    from fleet.store import Store

    store = Store.from_settings(get_settings())
    dispatcher = Dispatcher(store, get_settings(), app)
    stored, _ = dispatcher.submit_plan(PlanRequest.model_validate({**PLAN, "rounds": 1}))
    ids = [one.deliberation_id for one in stored.receipt.deliberations]
    app.send_task(ADVANCE, args=(ids[0],), queue=COUNCIL_QUEUE)  # as the watchdog
    app.send_task("fleet.council.close_step", args=([], "of-nobody", "record"), queue=COUNCIL_QUEUE)
    death = Death(attempt=1, worker="agents@host", pid=1, at_ms=1)
    store.dead_letters.add("council", "a reason", store.deliberations.task(ids[0]).dump(), 3, history=[death])
    store.keys.create("someone", [Scope.READ])
    return store, ids


def _anonymous(snapshot: Snapshot) -> Snapshot:
    text = json.dumps(snapshot)
    for name in (f"@{socket.gethostname()}",):
        text = text.replace(name, "@host")
    found: Snapshot = json.loads(text)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
