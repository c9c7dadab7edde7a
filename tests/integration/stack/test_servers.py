"""The embedded servers: real ones, killed and started again."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nats
import neo4j
import psutil
import pytest
import redis

from fleet.stack import ports, process
from fleet.stack.errors import PortTaken, StartFailed
from tests.harness import NatsServer, Neo4jServer, Process, ValkeyServer, running, wait_until


@contextlib.contextmanager
def listening(port: int = 0) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield listener.getsockname()[1]


def test_valkey_keeps_port_password_and_data_over_a_kill(new_valkey: Callable[..., ValkeyServer]) -> None:
    server = new_valkey()
    url = server.url
    with server.client() as client:
        client.set("key", "value")
    # The file is written in the same instant, and synchronised every second: a kill loses nothing.
    server.kill()
    server.start()
    assert server.url == url
    with server.client() as client:
        assert client.get("key") == "value"


def test_valkey_refuses_clients_without_the_password_and_never_evicts(valkey_server: ValkeyServer) -> None:
    with redis.Redis(port=valkey_server.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with valkey_server.client() as client:
        settings = client.config_get("maxmemory-policy", "appendonly", "appendfsync", "bind")
    assert settings == {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "bind": "127.0.0.1",
    }


def test_a_new_object_finds_the_data_of_yesterday(tmp_path: Path) -> None:
    with running(ValkeyServer(tmp_path)) as first, first.client() as client:
        client.set("key", "value")
    with running(ValkeyServer(tmp_path)) as second, second.client() as client:
        assert client.get("key") == "value"


def test_nats_keeps_streams_over_a_kill(new_nats: Callable[..., NatsServer]) -> None:
    server = new_nats()

    async def publish() -> None:
        async with await nats.connect(server.url) as client:
            stream = client.jetstream()
            await stream.add_stream(name="stream", subjects=["subject"])
            await stream.publish("subject", b"payload")

    async def read() -> bytes:
        async with await nats.connect(server.url) as client:
            message = await client.jetstream().get_last_msg("stream", "subject")
            return message.data or b""

    asyncio.run(publish())
    server.kill()
    server.start()
    assert asyncio.run(read()) == b"payload"


def test_nats_refuses_clients_without_the_password(nats_server: NatsServer) -> None:
    async def connect() -> None:
        await nats.connect(f"nats://127.0.0.1:{nats_server.port}", allow_reconnect=False, error_cb=_ignore)

    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        asyncio.run(connect())


async def _ignore(_: Exception) -> None:
    pass


def read_values(server: Neo4jServer) -> list[int]:
    with neo4j.GraphDatabase.driver(server.uri, auth=server.auth) as driver:
        return [record["value"] for record in driver.execute_query("MATCH (n:Kept) RETURN n.value AS value").records]


def test_neo4j_keeps_data_and_password_over_kill_and_stop_whatever_java_the_user_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:NoSuchOption")
    monkeypatch.setenv("PATH", "/nowhere")
    server = Neo4jServer(tmp_path)
    with running(server):
        with neo4j.GraphDatabase.driver(server.uri, auth=server.auth) as driver:
            driver.execute_query("CREATE (:Kept {value: 1})")
        server.kill()
        server.start()
        assert read_values(server) == [1]
        assert server.stop() == 0, server.output()
    with running(Neo4jServer(tmp_path)) as later:
        assert read_values(later) == [1]
        with (
            neo4j.GraphDatabase.driver(later.uri, auth=("neo4j", "neo4j")) as stranger,
            pytest.raises(neo4j.exceptions.AuthError),
        ):
            stranger.verify_connectivity()


def test_neo4j_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    server = Neo4jServer(tmp_path)
    server.configure()
    # Without the reaper, so that it has to notice by itself.
    parent_code = f"import subprocess, time; p = subprocess.Popen({server.command!r}); time.sleep(600)"
    parent = Process([sys.executable, "-c", parent_code], tmp_path / "parent.log")
    with running(parent):
        ready = wait_until(lambda: _read(tmp_path / "ready"), 120, "Neo4j is ready")
        child = psutil.Process(int(ready))
        os.kill(parent.pid, 9)
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="Neo4j ended")


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("server", [ValkeyServer, NatsServer, Neo4jServer])
def test_a_given_port_that_is_taken_is_named(server: type, tmp_path: Path) -> None:
    with listening() as port, pytest.raises(PortTaken, match=f"{server(tmp_path).name}: port {port} "):
        server(tmp_path, port=port).start()


@pytest.mark.parametrize("server", [ValkeyServer, NatsServer])
def test_a_port_that_was_lost_before_the_start_is_replaced(server: type, tmp_path: Path) -> None:
    one = server(tmp_path)
    with listening(one.port) as lost, running(one):
        assert one.port != lost


def test_a_server_that_loses_the_race_for_its_port_takes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ValkeyServer(tmp_path)
    answers = iter([True])  # free when it is looked at, and lost before the server has it
    monkeypatch.setattr(process, "is_free", lambda port: next(answers, None) or ports.is_free(port))
    with listening(one.port) as lost, running(one), one.client() as client:
        assert one.port != lost
        assert client.ping()


def test_a_server_that_cannot_start_says_why_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"(?s)valkey ended with status 1.*no-such-option"):
        ValkeyServer(tmp_path, "--no-such-option", "1").start()


def test_passwords_are_only_readable_by_their_owner(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path / "new")
    server.configure()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert modes == {"password": 0o600, "valkey.conf": 0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert server.password not in " ".join(server.command)
