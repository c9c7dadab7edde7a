"""The command line against a served API on a real ValKey and Neo4j. No worker runs: what is asked for stays pending."""

import codecs
import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fleet.cli import main
from fleet.models import Council, Role
from fleet.settings import Settings
from fleet.store import Store
from tests.harness import Neo4jServer, ValkeyServer, free_port
from tests.integration.api.conftest import KEY, Gunicorn, finish_in

COMMAND = [sys.executable, "-m", "fleet.cli"]


@dataclass
class Served:
    """An API, its store, and how a user's shell reaches it."""

    api: Gunicorn
    store: Store
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"FLEET_URL": f"http://127.0.0.1:{self.api.port}", "FLEET_API_KEY": KEY, "COLUMNS": "200"}

    def cli(self, *arguments: str, stdin: str | None = None, **env: str) -> Result:
        """`fleet …` in this process; a traceback fails the test."""
        result = CliRunner().invoke(main, arguments, input=stdin, env={**self.env, **env})
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    def json(self, *arguments: str, stdin: str | None = None) -> Any:
        """What `fleet … --json` prints, which is one document and nothing else."""
        result = self.cli(*arguments, "--json", stdin=stdin)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def start(self, *arguments: str, terminal: bool = False, **env: str) -> "Started":
        return Started([*COMMAND, *arguments], {**os.environ, **self.env, **env}, terminal)

    def pending(self, role: str = "DEV") -> str:
        """The id of a new deliberation, which no agent takes up."""
        found: str = self.json("deliberation", "run", "Write a function", "--role", role)["deliberation_id"]
        return found

    def finish(self, id: str) -> None:
        """Finishes a deliberation, FAILED, as the workers would."""
        finish_in(self.store, id)

    def move(self) -> None:
        """Gives the API another port for its next start."""
        self.api.port = free_port()
        self.api.env["FLEET_API_BIND"] = f"127.0.0.1:{self.api.port}"

    def announce(self) -> Path:
        """Writes the fleet.json of a `fleet up`; returns its folder."""
        details = {"api_url": f"http://127.0.0.1:{self.api.port}", "api_key": KEY}
        (self.folder / "fleet.json").write_text(json.dumps(details))
        return self.folder


class Started:
    """A command that runs, with pipes or with a terminal as its output."""

    def __init__(self, command: list[str], env: dict[str, str], terminal: bool):
        if terminal:
            self._output, out = pty.openpty()
            env = {**env, "TERM": "xterm", "LINES": "40"}
            self.popen = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.PIPE, start_new_session=True)
            os.close(out)
        else:
            self.popen = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert self.popen.stdout
            self._output = self.popen.stdout.fileno()
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read_until(self, wanted: str | Callable[[str], bool]) -> str:
        """Reads until the output is as wanted; AssertionError if it ends before."""
        enough = wanted if callable(wanted) else lambda text: wanted in text
        while not enough(self.text):
            piece = self._read()
            assert piece, f"it ended with {self.text!r}"
            self.text += piece
        return self.text

    def read_lines(self, count: int) -> list[str]:
        return self.read_until(lambda text: text.count("\n") >= count).splitlines()[:count]

    def finished(self) -> tuple[int, str, str]:
        """Exit code, output and standard error, once it has ended."""
        while piece := self._read():
            self.text += piece
        assert self.popen.stderr
        error = self.popen.stderr.read().decode()
        return self.popen.wait(60), self.text, error

    def has_output(self, within_s: float) -> bool:
        return bool(select.select([self._output], [], [], within_s)[0])

    def close(self) -> None:
        """Stops reading, as `| head` does."""
        assert self.popen.stdout
        self.popen.stdout.close()

    def _read(self) -> str:
        try:
            data = os.read(self._output, 65_536)
            return self._decoder.decode(data) or ("" if not data else self._read())
        except OSError:  # a terminal whose other end was closed
            return ""


@pytest.fixture(scope="package")
def start_api(
    tmp_path_factory: pytest.TempPathFactory, neo4j_server: Neo4jServer
) -> Callable[[ValkeyServer], Gunicorn]:
    """Starts an API on a ValKey; the caller stops it."""

    def start(valkey: ValkeyServer) -> Gunicorn:
        login = {"FLEET_NEO4J_USER": neo4j_server.user, "FLEET_NEO4J_PASSWORD": neo4j_server.password}
        env = {**login, "FLEET_NEO4J_URI": neo4j_server.uri, "FLEET_NATS_ENABLED": "false", "FLEET_ENGINE": "scripted"}
        api = Gunicorn(tmp_path_factory.mktemp("api"), valkey, **env)
        api.start()
        return api

    return start


def serve(valkey: ValkeyServer, api: Gunicorn, folder: Path) -> Served:
    store = Store.from_settings(Settings(valkey_url=valkey.url, nats_enabled=False, engine="scripted"))
    return Served(api, store, folder)


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory, start_api: Callable[[ValkeyServer], Gunicorn]) -> Iterator[Served]:
    valkey = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    valkey.start()
    api = start_api(valkey)
    made = serve(valkey, api, tmp_path_factory.mktemp("fleet"))
    yield made
    made.store.close()
    api.stop()
    valkey.stop()


@pytest.fixture
def served(shared: Served) -> Served:
    """An API that all tests here share: empty but for a council per role; not to be stopped."""
    shared.store.client.flushall()
    for role in Role:
        shared.store.councils.ensure(Council.of(role, 3, None, "scripted"))
    return shared


@pytest.fixture
def own(
    tmp_path: Path, new_valkey: Callable[..., ValkeyServer], start_api: Callable[[ValkeyServer], Gunicorn]
) -> Iterator[Served]:
    """An API of the test's own, to be stopped and started."""
    valkey = new_valkey()
    made = serve(valkey, start_api(valkey), tmp_path)
    yield made
    made.store.close()
    made.api.stop()
