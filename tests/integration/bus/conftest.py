"""Every test of the bus has its streams, and so its NATS, to itself."""

from collections.abc import Callable, Iterator

import pytest

from fleet.store import Store
from tests.harness import NatsServer, ValkeyServer
from tests.integration.bus.harness import Outside, store_of


@pytest.fixture
def server(new_nats: Callable[[], NatsServer]) -> NatsServer:
    return new_nats()


@pytest.fixture
def outside(server: NatsServer) -> Iterator[Outside]:
    client = Outside(server)
    yield client
    client.close()


@pytest.fixture
def store(valkey_server: ValkeyServer) -> Iterator[Store]:
    with store_of(valkey_server) as store:
        yield store


@pytest.fixture(autouse=True)
def quick_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests wait for these in many listeners: with shorter ones they end sooner."""
    monkeypatch.setattr("fleet.bus.listener.REPORT_S", 0.5)
    monkeypatch.setattr("fleet.bus.listener.WATCH_S", 0.5)
    monkeypatch.setattr("fleet.bus.consumers.FETCH_S", 0.2)
    monkeypatch.setattr("fleet.bus.relay.READ_MS", 200)
