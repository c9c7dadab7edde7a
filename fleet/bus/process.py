"""The listener as a process: what `fleet listener` runs."""

import asyncio

import structlog

from fleet.bus.consumers import consumers
from fleet.bus.listener import Listener, until_signalled
from fleet.dispatch import Dispatcher
from fleet.graph import Graph
from fleet.settings import Settings
from fleet.store import Store

log = structlog.get_logger(__name__)


def run(settings: Settings) -> int:
    """Listens until SIGTERM or SIGINT, then lets what is in hand end; returns the exit status."""
    if not settings.nats_enabled:
        log.warning("listener_not_wanted", reason="FLEET_NATS_ENABLED is off")
        return 0
    store = Store.from_settings(settings)
    graph = Graph(settings.neo4j_uri, settings.neo4j_user, settings.neo4j_password.get_secret_value())
    try:
        work = consumers(Dispatcher(store, settings).submit_plan, graph.record_transition)
        asyncio.run(until_signalled(Listener(settings.nats_url.get_secret_value(), store, work)))
    finally:
        graph.close()
        store.close()
    return 0
