"""Every fault that the doctor knows, each really made: what it finds, and the remedy that it names."""

import asyncio
import contextlib
import http.server
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import nats
import pytest
from nats.js.api import StreamConfig

from fleet.cluster import WorkerState
from fleet.stack.scripts import script
from tests.harness import NatsServer, Neo4jServer, Process, ValkeyServer, free_port, running, wait_until
from tests.integration.api.conftest import Gunicorn
from tests.integration.cli.conftest import Served
from tests.integration.security.tls import Authority, TlsFront
from tests.integration.trouble.bench import skew

Env = dict[str, str]
Found = dict[str, dict[str, Any]]


class ModelServer(http.server.BaseHTTPRequestHandler):
    """A model server that asks for the key `right`, and Flower's pages without a login."""

    def do_GET(self) -> None:
        if self.path.startswith("/v1") and self.headers["Authorization"] != "Bearer right":
            self.send_error(401)
            return
        body = json.dumps({"data": [{"id": "a-model"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not among the tests' output."""


class OldRedis(socketserver.StreamRequestHandler):
    """Says that it is a Redis of 2020, which no package has any more."""

    ANSWERS: ClassVar = {
        b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n",
        b"INFO": b"$73\r\nredis_version:6.0.9\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\nused:1\r\n\r\n",
        b"TIME": b"*2\r\n$10\r\n1600000000\r\n$1\r\n0\r\n",
    }

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = [self.rfile.readline() and self.rfile.readline().strip() for _ in range(int(line[1:]))]
            self.wfile.write(self.ANSWERS.get(words[0].upper(), b"+OK\r\n"))


@contextlib.contextmanager
def serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    """A server in a thread; its port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


@dataclass(frozen=True)
class Places:
    """Servers with faults and servers without."""

    valkey: ValkeyServer
    careless: ValkeyServer
    nats: NatsServer
    plain_nats: int
    neo4j: Neo4jServer
    models: int
    old_redis: int
    strange_valkey: int
    nowhere: int


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory,
    shared_valkey: ValkeyServer,
    nats_server: NatsServer,
    neo4j_server: Neo4jServer,
) -> Iterator[Places]:
    folder = tmp_path_factory.mktemp("faults")
    port = free_port()
    careless = ValkeyServer(folder / "careless", "--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
    plain = Process([str(script("nats-server")), "-a", "127.0.0.1", "-p", str(port)], folder / "nats.log")
    with contextlib.ExitStack() as stack:
        for process in (careless, plain):
            stack.callback(process.stop)
            process.start()
        wait_until(lambda: "Server is ready" in plain.output(), what="NATS without JetStream")
        models, old = stack.enter_context(serving(ModelServer)), stack.enter_context(serving(OldRedis))
        with careless.client() as client:
            client.execute_command("ACL", "SETUSER", "poor", "on", ">wrong", "+ping", "+select", "+client")
        strange = TlsFront(Authority(folder / "tls"), careless.port, client_certificates=False)
        front = stack.enter_context(strange.running()).port
        yield Places(shared_valkey, careless, nats_server, port, neo4j_server, models, old, front, free_port())


def examined(served: Served, env: Env) -> tuple[int, Found]:
    result = served.cli("doctor", "--json", **env)
    return result.exit_code, {part["name"]: part for part in json.loads(result.stdout)["items"]}


def neo4j_env(places: Places, **changes: str) -> Env:
    server = places.neo4j
    login = {"FLEET_NEO4J_USER": server.user, "FLEET_NEO4J_PASSWORD": server.password}
    return {"FLEET_NEO4J_URI": server.uri, **login, **changes}


def openai_env(places: Places, **changes: str) -> Env:
    return {
        "FLEET_ENGINE": "openai", "FLEET_ENGINE_URL": f"http://127.0.0.1:{places.models}/v1",
        "FLEET_ENGINE_KEY": "right", "FLEET_MODEL": "a-model", **changes,
    }  # fmt: skip


FAULTS: dict[str, tuple[Callable[[Places], Env], str, str, str]] = {
    "unknown setting": (lambda _: {"FLEET_ENGIN_KEY": "x"}, "settings", "FLEET_ENGIN_KEY", "fleet config show"),
    "settings file missing": (lambda _: {"FLEET_CONFIG": "/nowhere.yaml"}, "settings", "nowhere", "fleet config show"),
    "wrong scheme": (lambda _: {"FLEET_VALKEY_URL": "http://h"}, "settings", "redis://", "fleet config show"),
    "ValKey's port": (
        lambda at: {"FLEET_VALKEY_URL": f"redis://127.0.0.1:{at.nowhere}/0"},
        "valkey server", "does not answer", "FLEET_VALKEY_URL",
    ),
    "ValKey's password": (
        lambda at: {"FLEET_VALKEY_URL": f"redis://:wrong@127.0.0.1:{at.valkey.port}/0"},
        "valkey server", "refuses the login", "password",
    ),
    "ValKey's certificate": (
        lambda at: {"FLEET_VALKEY_URL": f"rediss://127.0.0.1:{at.strange_valkey}/0"},
        "valkey server", "certificate verify failed", "FLEET_VALKEY_CA_FILE",
    ),
    "ValKey's user": (
        lambda at: {"FLEET_VALKEY_URL": f"redis://poor:wrong@127.0.0.1:{at.careless.port}/0"},
        "valkey server", "no permissions", "+info and +time",
    ),
    "ValKey's file": (
        lambda at: {"FLEET_VALKEY_URL": at.careless.url}, "valkey appendonly", "no", "appendonly yes",
    ),
    "ValKey's memory": (
        lambda at: {"FLEET_VALKEY_URL": at.careless.url}, "valkey maxmemory-policy", "allkeys-lru", "noeviction",
    ),
    "ValKey's disk": (
        lambda at: {"FLEET_VALKEY_URL": at.valkey.url, "FLEET_DURABILITY": "fsync"},
        "valkey durability", "appendfsync everysec", "appendfsync always",
    ),
    "old Redis": (
        lambda at: {"FLEET_VALKEY_URL": f"redis://127.0.0.1:{at.old_redis}/0"},
        "valkey server", "Redis 6.0.9", "7.0 or newer",
    ),
    "clock": (
        lambda at: {"FLEET_VALKEY_URL": f"redis://127.0.0.1:{at.old_redis}/0"}, "clock", "s from ValKey's", "NTP",
    ),
    "NATS's port": (
        lambda at: {"FLEET_NATS_URL": f"nats://127.0.0.1:{at.nowhere}"},
        "nats server", "does not answer", "FLEET_NATS_URL",
    ),
    "NATS without TLS": (
        lambda at: {"FLEET_NATS_URL": f"tls://fleet:wrong@127.0.0.1:{at.plain_nats}"},
        "nats server", "has no TLS", "FLEET_NATS_URL",
    ),
    "NATS's password": (
        lambda at: {"FLEET_NATS_URL": f"nats://fleet:wrong@127.0.0.1:{at.nats.port}"},
        "nats server", "refuses the login", "password",
    ),
    "JetStream": (lambda at: {"FLEET_NATS_URL": f"nats://127.0.0.1:{at.plain_nats}"}, "jetstream", "off", "-js"),
    "Neo4j's port": (
        lambda at: neo4j_env(at, FLEET_NEO4J_URI=f"bolt://127.0.0.1:{at.nowhere}"),
        "neo4j server", "does not answer", "FLEET_NEO4J_URI",
    ),
    "Neo4j's password": (
        lambda at: neo4j_env(at, FLEET_NEO4J_PASSWORD="wrong"),
        "neo4j server", "refuses the login", "FLEET_NEO4J_PASSWORD",
    ),
    "engine's address": (
        lambda at: openai_env(at, FLEET_ENGINE_URL=f"http://127.0.0.1:{at.nowhere}/v1"),
        "engine", "does not answer", "FLEET_ENGINE_URL",
    ),
    "engine's key missing": (
        lambda at: openai_env(at, FLEET_ENGINE_KEY=""), "engine", "asks for a key", "FLEET_ENGINE_KEY",
    ),
    "engine's key wrong": (
        lambda at: openai_env(at, FLEET_ENGINE_KEY="wrong"), "engine", "refuses the key", "FLEET_ENGINE_KEY",
    ),
    "model not served": (
        lambda at: openai_env(at, FLEET_MODEL="another"), "engine model", "another is not served", "FLEET_MODEL",
    ),
    "no key for others": (
        lambda _: {"FLEET_API_BIND": "0.0.0.0:8080", "FLEET_API_KEY": ""}, "api key", "without a key", "FLEET_API_KEY",
    ),
    "cache folder": (
        lambda _: {"FLEET_ENGINE": "local", "FLEET_CACHE_DIR": f"{__file__}/cache"},
        "cache folder", "is no folder", "FLEET_CACHE_DIR",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_its_remedy_named(served: Served, places: Places, fault: str) -> None:
    make, name, state, remedy = FAULTS[fault]
    code, parts = examined(served, make(places))
    assert code == 1
    assert not parts[name]["ok"], parts[name]
    assert state in parts[name]["state"]
    assert remedy in parts[name]["remedy"]
    assert "wrong@" not in str(parts)


def test_servers_and_an_engine_without_a_fault_are_well(served: Served, places: Places) -> None:
    env = {"FLEET_VALKEY_URL": places.valkey.url, "FLEET_NATS_URL": places.nats.url}
    _, parts = examined(served, {**env, **neo4j_env(places), **openai_env(places)})
    names = ["valkey server", "valkey appendonly", "valkey maxmemory-policy", "clock", "nats server", "jetstream"]
    names += ["neo4j server", "engine", "engine model"]
    assert {name: parts[name]["ok"] for name in names} == dict.fromkeys(names, True)


def test_a_stream_with_another_configuration_is_found(served: Served, new_nats: Callable[..., NatsServer]) -> None:
    server = new_nats()

    async def make() -> None:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(StreamConfig(name="DEAD_LETTERS", subjects=["deadletter.>"], max_msgs=1))
        await client.close()

    asyncio.run(make())
    code, parts = examined(served, {"FLEET_NATS_URL": server.url})
    assert code == 1
    assert "max_msgs is 1 instead of -1" in parts["stream DEAD_LETTERS"]["state"]
    assert "nats stream edit DEAD_LETTERS" in parts["stream DEAD_LETTERS"]["remedy"]


def test_a_wrong_clock_is_found(served: Served, places: Places) -> None:
    started = served.start("doctor", "--json", FLEET_VALKEY_URL=places.valkey.url, **skew(60))
    code, text, _ = started.finished()
    parts = {part["name"]: part for part in json.loads(text)["items"]}
    assert code == 1
    assert 50 < int(parts["clock"]["state"].split()[0]) < 120
    assert "NTP" in parts["clock"]["remedy"]


def report(served: Served, name: str, *queues: str, version: str = "0.1.0") -> None:
    state = {"worker": name, "host": "vm", "pid": 1, "pool": "threads", "slots": 8, "version": version}
    served.store.workers.report(WorkerState(**state, queues=queues, at_ms=served.store.workers.now_ms()))


def test_workers_of_different_versions_are_found(served: Served) -> None:
    report(served, "old@vm", "agents", "council", version="0.0.9")
    report(served, "new@vm", "agents", "council")
    code, parts = examined(served, {})
    assert code == 1
    assert parts["versions"]["state"] == "0.0.9: old@vm; 0.1.0: new@vm"
    assert "same version" in parts["versions"]["remedy"]


def test_a_missing_listener_is_found(served: Served, places: Places, tmp_path: Path) -> None:
    env = {"FLEET_NATS_URL": places.nats.url, "FLEET_ENGINE": "scripted", **neo4j_env(places)}
    with running(Gunicorn(tmp_path, places.valkey, **env)) as api:
        code, parts = examined(served, {"FLEET_URL": f"http://127.0.0.1:{api.port}"})
    assert code == 1
    assert parts["nats"]["state"] == "no listener is running"
    assert "fleet listener" in parts["nats"]["remedy"]


@pytest.mark.parametrize(("there", "missing"), [("agents", "council"), ("council", "agents")])
def test_a_queue_that_nobody_serves_is_found(served: Served, there: str, missing: str) -> None:
    report(served, "one@vm", there)
    code, parts = examined(served, {})
    assert code == 1
    assert not parts[f"queue {missing}"]["ok"]
    assert parts[f"queue {missing}"]["remedy"] == f"celery -A fleet worker -Q {missing}"


def test_a_flower_that_asks_for_no_login_is_found(served: Served, places: Places, tmp_path: Path) -> None:
    folder = served.announce()
    details = json.loads((folder / "fleet.json").read_text())
    (tmp_path / "fleet.json").write_text(json.dumps({**details, "flower_url": f"http://127.0.0.1:{places.models}"}))
    code, parts = examined(served, {"FLEET_URL": "", "FLEET_DIR": str(tmp_path)})
    assert code == 1
    assert "without a login" in parts["flower"]["state"]
    assert "FLOWER_BASIC_AUTH" in parts["flower"]["remedy"]
