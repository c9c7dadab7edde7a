"""NATS over TLS, and a listener that logs in with an nkey."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nkeys
import pytest

from fleet.stack.scripts import script
from fleet.stack.secret_file import write_private
from tests.harness import NatsServer, Process, free_port, running, wait_until
from tests.integration.security.conftest import ROOT, Bench
from tests.integration.security.tls import Authority


class SecureNats(NatsServer):
    """NATS over TLS that knows one nkey."""

    def __init__(self, folder: Path, authority: Authority, public_nkey: str):
        super().__init__(folder)
        self._authority, self._nkey = authority, public_nkey

    def configure(self) -> None:
        files = self._authority
        tls = f'cert_file: "{files.cert}", key_file: "{files.key}", ca_file: "{files.ca}", verify: true'
        config = self.folder / "nats.conf"
        write_private(
            config,
            f'server_name: "{self.server_name}"\nlisten: "127.0.0.1:{self.port}"\ntls {{ {tls} }}\n'
            f"jetstream {{ store_dir: {json.dumps(str(self.folder))} }}\n"
            f"authorization {{ users: [ {{ nkey: {self._nkey} }} ] }}\n",
        )
        self.command = [str(script("nats-server")), "-c", str(config)]


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    return new_seed(tmp_path / "listener.nk")


def new_seed(file: Path) -> Path:
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    write_private(file, seed.decode() + "\n")
    return file


@pytest.fixture
def nats(tmp_path: Path, authority: Authority, seed: Path) -> Iterator[SecureNats]:
    public = nkeys.from_seed(bytearray(seed.read_bytes().strip())).public_key.decode()
    with running(SecureNats(tmp_path / "nats", authority, public)) as server:
        yield server


Listen = Callable[..., Process]


@pytest.fixture
def listener(
    bench: Bench, stack: ExitStack, nats: SecureNats, authority: Authority, seed: Path
) -> Callable[..., Process]:
    """Runs `fleet listener` with the right settings but for those that are given."""

    def start(url: str = "", **changes: Path) -> Process:
        right = {"ca": authority.ca, "cert": authority.cert, "key": authority.key, "nkey": seed}
        files = {f"FLEET_NATS_{name.upper()}_FILE": str(path) for name, path in {**right, **changes}.items()}
        env = {**bench.environment(), **files, "FLEET_NATS_URL": url or f"tls://127.0.0.1:{nats.port}"}
        command = [sys.executable, "-m", "fleet.cli", "listener"]
        log = bench.folder / "listener.log"
        return stack.enter_context(running(Process(command, log, {**env, "FLEET_NATS_ENABLED": "true"}, ROOT)))

    return start


def test_the_listener_connects_over_tls_with_an_nkey(bench: Bench, listener: Listen) -> None:
    listener()

    def connected() -> bool:
        found = bench.store.listeners.list()
        return bool(found) and found[0].nats == "connected" and set(found[0].streams.values()) == {"ok"}

    wait_until(connected, 60, "the listener has its streams")


# A server that refuses a login hangs up after it has said so, and what it said may be lost on the way.
@pytest.mark.parametrize(
    ("wrong", "why"),
    [("ca", "CERTIFICATE_VERIFY_FAILED"), ("nkey", "(?i)authorization violation|broken pipe|reset|eof")],
    ids=["ca", "nkey"],
)
def test_a_listener_says_in_one_line_why_it_does_not_connect(
    listener: Listen, stranger: Authority, tmp_path: Path, wrong: str, why: str
) -> None:
    file = {"ca": stranger.ca, "nkey": new_seed(tmp_path / "other.nk")}[wrong]
    process = listener(**{wrong: file})

    assert re.search(why, why_away(process))
    assert "server_back" not in process.output()


def test_nothing_is_said_to_a_server_that_has_no_tls(listener: Listen, tmp_path: Path) -> None:
    port = free_port()
    command = [str(script("nats-server")), "-DV", "-a", "127.0.0.1", "-p", str(port)]
    with running(Process(command, tmp_path / "plain.log")) as plain:
        wait_until(lambda: "Server is ready" in plain.output(), 60, "NATS without TLS")
        process = listener(url=f"tls://user:hunter2@127.0.0.1:{port}")
        assert "secure connection not available" in why_away(process)
        wait_until(lambda: "Client connection closed" in plain.output(), 60, "the listener hung up")
        assert "<<-" not in plain.output(), "nothing was received"


def why_away(process: Process) -> str:
    def away() -> list[dict[str, Any]]:
        events = [json.loads(line) for line in process.output().splitlines()]
        return [event for event in events if event["event"] == "server_away" and event["server"] == "nats"]

    [event] = wait_until(away, 60, "the listener says that NATS is away")
    return str(event["reason"])
