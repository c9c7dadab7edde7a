"""Every secret of a fleet, and where it must not be found after everything went wrong at the log level DEBUG."""

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import neo4j
import psutil
import pytest

from fleet.stack.processes import CeleryWorker, Flower
from tests.harness import Process, ValkeyServer, wait_until
from tests.integration.api.conftest import KEY, Gunicorn
from tests.integration.input.conftest import SmallFleet
from tests.unit.engines.openai_server import Server, says

# Distinct, with what has to be escaped in URLs, JSON and Python.
ENGINE_KEY = "engine-key-b7c1'\"\\e0"
SIGNING_KEY = "signing-key-5d20-of-thirty-two-characters"
WRONG = {
    "a wrong bearer": "wrong-bearer-91ab",
    "a key in a query": "query-key-77cd",
    "a key in a header": "header-key-30ef",
    "a password in a body": "body-password-12aa",
    "a basic login": "d3Jvbmc6YmFzaWMtbG9naW4=",
    "a wrong password of ValKey": "wrong-valkey-44bb",
    "a wrong password of NATS": "wrong-nats-55cc",
    "a wrong password of Neo4j": "wrong-neo4j-66dd",
    "a password in a bad URL": "bad-url-88ee",
}
READ = (
    *("/v1/plans", "/v1/deliberations", "/v1/councils", "/v1/deadletters", "/v1/keys", "/v1/events?follow=false"),
    *("/v1/cluster", "/readyz", "/metrics", "/openapi.json", "/docs"),
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Server]:
    """A server that repeats the key that it refuses."""
    server = Server()
    server.models = ["served-model"]

    def refuse(handler: Any) -> None:
        given = handler.headers["Authorization"]
        says({"error": {"message": f"Incorrect API key provided: {given} ({given!r})"}}, 401)(handler)

    server.answer = refuse
    with server.serving():
        yield server


@pytest.fixture(scope="module")
def written(
    start_fleet: Callable[..., SmallFleet], engine: Server, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], dict[str, str]]:
    """All that was written anywhere, by its place, after each kind of trouble; and the secrets of the fleet itself."""
    folder = tmp_path_factory.mktemp("secrets")
    settings = {
        "FLEET_LOG_LEVEL": "debug",
        "FLEET_ENGINE": "openai",
        "FLEET_ENGINE_URL": engine.url,
        "FLEET_ENGINE_KEY": ENGINE_KEY,
        "FLEET_TASK_SIGNING_KEY": SIGNING_KEY,
    }
    fleet = start_fleet(**settings)
    flower = Flower("flower-password", folder / "flower.log", fleet.worker.env)
    flower.start()
    try:
        made = fleet.api.call("POST", "/v1/keys", {"name": "planted", "scopes": ["read"]}).json["key"]
        asked = {"role": "DEV", "task_description": "x", "rounds": 0, "num_agents": 1}
        failed = fleet.final(fleet.api.call("POST", "/v1/deliberations", asked).json["deliberation_id"])
        assert failed["status"] == "FAILED"
        _send_secrets(fleet, made)
        found = _everywhere(fleet, flower) | {"the deliberation": json.dumps(failed)}
        _away(fleet)
        found["command lines"] = "\n".join(_command_lines(fleet, flower))
        found["logs"] = fleet.logs() + flower.output()
    finally:
        flower.stop()
    own = {
        "the API's key": KEY,
        "the engine's key": ENGINE_KEY,
        "the key that signs tasks": SIGNING_KEY,
        "ValKey's password": fleet.valkey.password,
        "NATS's password": fleet.nats.password,
        "Neo4j's password": fleet.neo4j.password,
        "a made key": made.rpartition("_")[2],
    }
    return found | _wrong_starts(fleet, folder) | _shown_settings(fleet), own


def _send_secrets(fleet: SmallFleet, made: str) -> None:
    """What callers send in wrong places, and right ones."""
    calls = [
        ("GET", "/v1/plans", None, {"Authorization": f"Bearer {WRONG['a wrong bearer']}"}),
        ("GET", "/v1/plans", None, {"Authorization": f"Basic {WRONG['a basic login']}"}),
        ("GET", f"/v1/plans?api_key={WRONG['a key in a query']}", None, {}),
        ("GET", f"/v1/plans?cursor={WRONG['a key in a query']}", None, {}),
        ("GET", "/v1/plans", None, {"X-Api-Key": WRONG["a key in a header"], "Cookie": WRONG["a key in a header"]}),
        ("POST", "/v1/deliberations", {"role": "DEV", "password": WRONG["a password in a body"]}, {}),
        ("POST", "/v1/deliberations", f'{{"password": "{WRONG["a password in a body"]}"', {}),
        ("GET", "/v1/plans", None, {"Authorization": f"Bearer {made}"}),
        ("GET", "/v1/plans", None, {"Authorization": f"Bearer {made}0"}),
    ]
    for method, path, body, headers in calls:
        assert fleet.api.call(method, path, body, **headers).status in (200, 401, 422)


def _everywhere(fleet: SmallFleet, flower: Flower) -> dict[str, str]:
    answers = {path: fleet.api.call("GET", path).body.decode() for path in READ}
    with neo4j.GraphDatabase.driver(fleet.neo4j.uri, auth=fleet.neo4j.auth) as driver:
        graph = driver.execute_query("MATCH (n) OPTIONAL MATCH (n)-[r]->() RETURN properties(n), properties(r)").records
    wait_until(lambda: fleet.store.events.backlog() == 0, 60, "everything is relayed")
    messages = [message for stream in STREAMS for message in fleet.outside.messages(stream)]
    return answers | {
        "the graph": repr([record.values() for record in graph]),
        "NATS": repr([(message.subject, message.headers, message.data) for message in messages]),
        "the event log": repr(fleet.store.events.read(count=10_000)),
        "ValKey": _all_of_valkey(fleet.valkey),
        "Flower": _all_of_flower(flower),
    }


STREAMS = ("ORCHESTRATOR_EVENTS", "AGENT_RESULTS", "CONTEXT_EVENTS", "DEAD_LETTERS")


def _all_of_valkey(valkey: ValkeyServer) -> str:
    """The commands would be as good as the values, but a dump is compressed: each value by its type."""
    read = {
        "string": "get",
        "hash": "hgetall",
        "list": "lrange",
        "set": "smembers",
        "zset": "zrange",
        "stream": "xrange",
    }
    with valkey.client() as client:
        found = {}
        for key in client.scan_iter():
            kind = client.type(key)
            ends = (0, -1) if kind in ("list", "zset") else ()
            found[key] = getattr(client, read[kind])(key, *ends)
    return repr(found)


def _all_of_flower(flower: Flower) -> str:
    login = base64.b64encode(b"fleet:flower-password").decode()
    pages = []
    for path in ("/", "/workers", "/tasks", "/broker", "/api/workers?refresh=true", "/api/tasks", "/api/queues/length"):
        asked = urllib.request.Request(
            f"http://127.0.0.1:{flower.port}{path}", headers={"Authorization": f"Basic {login}"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            pages.append(answer.read().decode())
    return "\n".join(pages)


def _away(fleet: SmallFleet) -> None:
    """ValKey and NATS die while everybody is at work, and come back."""
    fleet.valkey.kill()
    fleet.nats.kill()
    assert fleet.api.call("GET", "/v1/plans").status == 503
    wait_until(lambda: fleet.api.call("GET", "/readyz").status == 503, what="the API sees that ValKey is away")
    wait_until(lambda: "Connection refused" in fleet.worker.output(), 60)
    wait_until(lambda: "server_away" in fleet.listener.output(), 60)
    fleet.valkey.start()
    fleet.nats.start()


def _command_lines(fleet: SmallFleet, flower: Flower) -> Iterator[str]:
    for process in (*fleet.processes, flower, fleet.valkey, fleet.nats, fleet.neo4j):
        parent = psutil.Process(process.pid)
        for one in (parent, *parent.children(recursive=True)):
            yield " ".join(one.cmdline())


def _wrong_starts(fleet: SmallFleet, folder: Path) -> dict[str, str]:
    """What processes say that have the wrong password or a URL that is none."""
    user, port = fleet.neo4j.user, fleet.valkey.port
    wrong = {
        "FLEET_VALKEY_URL": f"redis://:{WRONG['a wrong password of ValKey']}@127.0.0.1:{port}/0",
        "FLEET_NATS_URL": f"nats://fleet:{WRONG['a wrong password of NATS']}@127.0.0.1:{fleet.nats.port}",
        "FLEET_NEO4J_URI": fleet.neo4j.uri,
        "FLEET_NEO4J_USER": user,
        "FLEET_NEO4J_PASSWORD": WRONG["a wrong password of Neo4j"],
        "FLEET_LOG_LEVEL": "debug",
        "FLEET_ENGINE": "scripted",
    }
    api = Gunicorn(folder, fleet.valkey, **wrong)
    listener = Process([sys.executable, "-m", "fleet.cli", "listener"], folder / "listener.log", wrong)
    worker = CeleryWorker("wrong", "fleet", ["-Q", "council", "-P", "threads"], folder / "worker.log", wrong)
    for process in (api, listener, worker):
        process.spawn()
    try:
        wait_until(api.ready, 60)
        said = [api.call("GET", path) for path in ("/readyz", "/v1/plans", "/v1/plans/x")]
        assert {answer.status for answer in said} == {503}
        wait_until(lambda: "server_away" in listener.output(), 60)
        wait_until(lambda: "invalid username-password" in worker.output(), 60)
    finally:
        for process in (api, listener, worker):
            process.kill()
    bad = {"FLEET_VALKEY_URL": f"redis://:{WRONG['a password in a bad URL']}/x@[127.0.0.1:1/0"}
    outputs = [process.output() for process in (api, listener, worker)]
    outputs += [_cli(bad, "listener"), _cli(bad, "config", "show"), _cli(wrong, "doctor")]
    return {"wrong starts": "\n".join(outputs) + repr(said)}


def _shown_settings(fleet: SmallFleet) -> dict[str, str]:
    environment = {name: value for name, value in fleet.worker.env.items() if value is not None}
    environment["FLEET_API_KEY"] = KEY
    return {"config show": _cli(environment, "config", "show") + _cli(environment, "config", "show", "--json")}


def _cli(environment: dict[str, str], *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "fleet.cli", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ended.stdout + ended.stderr


def test_no_secret_is_found_anywhere(written: tuple[dict[str, str], dict[str, str]]) -> None:
    places, own = written
    assert all(places.values())
    found = {
        (name, place, text[max(0, text.index(form) - 100) : text.index(form) + 20])
        for name, secret in (WRONG | own).items()
        for place, text in places.items()
        for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])
        if form in text
    }
    assert not found
