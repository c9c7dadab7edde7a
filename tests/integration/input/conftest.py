"""A small fleet of real processes that takes whatever it is sent."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fleet.settings import Settings
from fleet.stack.processes import CeleryWorker
from fleet.store import Store
from tests.harness import NatsServer, Neo4jServer, Process, ValkeyServer, wait_until
from tests.integration.api.conftest import Gunicorn
from tests.integration.bus.harness import PLANS, TRANSITIONS, Outside

FINAL = ("COMPLETED", "PARTIAL", "FAILED", "CANCELLED")


@dataclass(frozen=True)
class SmallFleet:
    """One process of each kind, with the servers of this test alone, but for Neo4j."""

    valkey: ValkeyServer
    nats: NatsServer
    neo4j: Neo4jServer
    store: Store
    outside: Outside
    api: Gunicorn
    worker: CeleryWorker
    listener: Process

    @property
    def processes(self) -> tuple[Process, ...]:
        return (self.api, self.worker, self.listener)

    def logs(self) -> str:
        return "".join(process.output() for process in self.processes)

    def final(self, id: str) -> dict[str, Any]:
        """The deliberation, once it is."""

        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = self.api.call("GET", f"/v1/deliberations/{id}?wait=5").json
            return found if found.get("status") in FINAL else None

        found = wait_until(look, timeout_s=120, what=f"{id} is final")
        assert found is not None
        return found


@pytest.fixture(scope="package")
def start_fleet(
    tmp_path_factory: pytest.TempPathFactory, neo4j_server: Neo4jServer
) -> Iterator[Callable[..., SmallFleet]]:
    """Starts a fleet: `start_fleet(FLEET_LOG_FORMAT="console")`."""
    with contextlib.ExitStack() as stack:

        def start(**env: str) -> SmallFleet:
            folder = tmp_path_factory.mktemp("input")
            valkey, nats = ValkeyServer(folder / "valkey"), NatsServer(folder / "nats")
            for server in (valkey, nats):
                stack.callback(server.stop)
                server.start()
            fleet = _processes(folder, valkey, nats, neo4j_server, stack, env)
            for process in fleet.processes:
                stack.callback(process.stop)
                process.spawn()
            wait_until(lambda: fleet.api.call("GET", "/readyz").status == 200 if fleet.api.ready() else False, 120)
            wait_until(lambda: fleet.outside.consumer(PLANS) and fleet.outside.consumer(TRANSITIONS), 120)
            return fleet

        yield start


def _processes(
    folder: Path,
    valkey: ValkeyServer,
    nats: NatsServer,
    neo4j: Neo4jServer,
    stack: contextlib.ExitStack,
    env: dict[str, str],
) -> SmallFleet:
    user, password = neo4j.auth
    env = {
        "FLEET_VALKEY_URL": valkey.url,
        "FLEET_NATS_URL": nats.url,
        "FLEET_NEO4J_URI": neo4j.uri,
        "FLEET_NEO4J_USER": user,
        "FLEET_NEO4J_PASSWORD": password,
        "FLEET_ENGINE": "scripted",
        **env,
    }
    store = Store.from_settings(Settings(valkey_url=valkey.url))
    stack.callback(store.close)
    outside = Outside(nats)
    stack.callback(outside.close)
    options = ["-Q", "agents,council", "-P", "threads", "-c", "4"]
    return SmallFleet(
        valkey,
        nats,
        neo4j,
        store,
        outside,
        Gunicorn(folder, valkey, **env),
        CeleryWorker("both", "fleet", options, folder / "worker.log", env),
        Process([sys.executable, "-m", "fleet.cli", "listener"], folder / "listener.log", env),
    )


@pytest.fixture(scope="package")
def fleet(start_fleet: Callable[..., SmallFleet]) -> SmallFleet:
    return start_fleet(FLEET_LOG_LEVEL="debug")
