"""Real servers for every test that asks for one.

A test that stops, kills or fills a server takes one of its own from `new_valkey`, `new_nats` or `new_neo4j`. All others
share `valkey_server` (emptied before each test), `nats_server` and `neo4j_server` (emptied for a test that asks for
`neo4j_empty`).
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import neo4j
import pytest

from tests.harness import NatsServer, Neo4jServer, Process, ValkeyServer

P = TypeVar("P", bound=Process)

os.environ.pop("COLUMNS", None)  # where pytest-xdist puts the width of a terminal that its workers do not have


def _factory(make: Callable[[Path], P], folder: Path, stack: contextlib.ExitStack) -> Callable[..., P]:
    made = iter(range(1000))

    def start(*arguments: str, **options: int) -> P:
        server = make(folder / str(next(made)), *arguments, **options)  # type: ignore[call-arg]
        stack.callback(server.stop)
        server.start()
        return server

    return start


@pytest.fixture
def new_valkey(tmp_path: Path) -> Iterator[Callable[..., ValkeyServer]]:
    """Starts Valkeys of this test's own: `new_valkey("--maxmemory", "10mb")`."""
    with contextlib.ExitStack() as stack:
        yield _factory(ValkeyServer, tmp_path / "valkey", stack)


@pytest.fixture
def new_nats(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    with contextlib.ExitStack() as stack:
        yield _factory(NatsServer, tmp_path / "nats", stack)


@pytest.fixture
def new_neo4j(tmp_path: Path) -> Iterator[Callable[..., Neo4jServer]]:
    """Starts Neo4js of this test's own, each 6 to 9 s and 430 MB."""
    with contextlib.ExitStack() as stack:
        yield _factory(Neo4jServer, tmp_path / "neo4j", stack)


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey_server(shared_valkey: ValkeyServer) -> ValkeyServer:
    """A Valkey shared by the session, empty when the test begins; not to be killed."""
    with shared_valkey.client() as client:
        client.flushall()
    return shared_valkey


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A NATS with JetStream shared by the session: tests name their streams apart; not to be killed."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def neo4j_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neo4jServer]:
    """A Neo4j shared by the session: tests use ids of their own, or `neo4j_empty`; not to be killed."""
    server = Neo4jServer(tmp_path_factory.mktemp("neo4j"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def neo4j_empty(neo4j_server: Neo4jServer) -> Neo4jServer:
    """The shared Neo4j without nodes; constraints and indexes stay."""
    with neo4j.GraphDatabase.driver(neo4j_server.uri, auth=neo4j_server.auth) as driver:
        driver.execute_query("MATCH (node) CALL (node) { DETACH DELETE node }")
    return neo4j_server
