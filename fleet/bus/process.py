"""The listener as a process: what `fleet listener` runs."""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from fleet import telemetry
from fleet.bus.consumers import consumers
from fleet.bus.listener import Listener, until_signalled
from fleet.dispatch import Dispatcher
from fleet.graph import Graph
from fleet.models import PlanRequest
from fleet.settings import Settings
from fleet.settings.tls import nats_tls
from fleet.store import Store

log = structlog.get_logger(__name__)


def run(settings: Settings) -> int:
    """Listens until SIGTERM or SIGINT, then lets what is in hand end; returns the exit status."""
    telemetry.configure("listener")
    if not settings.nats_enabled:
        log.warning("listener_not_wanted", reason="FLEET_NATS_ENABLED is off")
        return 0
    store = Store.from_settings(settings)
    graph = Graph.from_settings(settings)
    try:
        work = consumers(_accepting(Dispatcher(store, settings)), graph.record_transition)
        listener = Listener(settings.nats_url.get_secret_value(), store, work, login(settings))
        asyncio.run(until_signalled(listener))
    finally:
        graph.close()
        store.close()
    return 0


def login(settings: Settings) -> dict[str, Any]:
    """What NATS is shown beyond its URL."""
    login: dict[str, Any] = {"tls": nats_tls(settings)}
    for option, file in (("nkeys_seed", settings.nats_nkey_file), ("user_credentials", settings.nats_creds_file)):
        if file:
            login[option] = str(file)
    return login


def _accepting(dispatcher: Dispatcher) -> Callable[[PlanRequest], None]:
    """Accepts plans, and logs which deliberations follow from each."""

    def accept(plan: PlanRequest) -> None:
        with structlog.contextvars.bound_contextvars(plan_id=plan.plan_id, story_id=plan.story_id):
            stored, created = dispatcher.submit_plan(plan)
            ids = [one.deliberation_id for one in stored.receipt.deliberations]
            log.info("plan_accepted", created=created, deliberation_ids=ids)

    return accept
