"""Which of the API's dependencies are up."""

import threading
import time
from collections.abc import Callable
from typing import Literal

from redis.exceptions import RedisError

from fleet.cluster import NONE_RUNS, start_command, why_unserved
from fleet.dispatch import COUNCIL_QUEUE
from fleet.errors import NotKept, Unavailable
from fleet.graph import Graph
from fleet.models import Model
from fleet.settings import Settings
from fleet.settings.tls import valkey_tls
from fleet.store.base import connect_to_probe
from fleet.store.durability import Durability
from fleet.store.listeners import Listeners
from fleet.store.queues import Queues
from fleet.store.workers import Workers


class Dependency(Model):
    """`disabled`: not used in this fleet, and not needed to be ready."""

    state: Literal["up", "down", "disabled"]
    reason: str | None = None


class Readiness(Model):
    ready: bool
    dependencies: dict[str, Dependency]


UP = Dependency(state="up")
_TIMEOUT_S = 2.0
_KEPT_S = 1.0


class Probe:
    """Asks each dependency; once all are up, at most once a second however many probes come. Thread-safe.

    That one is down is not remembered: one process would still say so when another already says that all is well.
    """

    def __init__(self, settings: Settings, graph: Callable[[], Graph]):
        # A client of its own: the store's waits longer and tries again, for the sake of requests.
        url = settings.valkey_url.get_secret_value()
        self._client = connect_to_probe(url, valkey_tls(settings), _TIMEOUT_S)
        self._durability = Durability(self._client, settings.durability == "fsync")
        self._nats_enabled, self._graph = settings.nats_enabled, graph
        self._queues = (settings.agent_queue, COUNCIL_QUEUE)
        self._lock = threading.Lock()
        self._found: Readiness | None = None
        self._asked_at = 0.0

    def __call__(self) -> Readiness:
        with self._lock:
            if self._found is None or not self._found.ready or time.monotonic() - self._asked_at > _KEPT_S:
                self._found = self._ask()
                self._asked_at = time.monotonic()
            return self._found

    def _ask(self) -> Readiness:
        valkey = self._valkey()
        reachable = valkey.state == "up"  # what does not answer is not asked twice more: each time takes 2 s
        dependencies = {
            "valkey": valkey,
            "neo4j": self._neo4j(),
            "nats": self._nats() if reachable or not self._nats_enabled else _unknown("listeners"),
            "workers": self._workers() if reachable else _unknown("workers"),
        }
        ready = all(dependency.state != "down" for dependency in dependencies.values())
        return Readiness(ready=ready, dependencies=dependencies)

    def _valkey(self) -> Dependency:
        try:
            self._client.ping()
            self._durability.check()
        except RedisError as error:
            return _down(f"no answer to PING: {type(error).__name__}")
        except NotKept as error:
            return _down(error.reason)
        return UP

    def _neo4j(self) -> Dependency:
        try:
            self._graph().ping()
        except Unavailable as error:
            return _down(error.reason)
        return UP

    def _nats(self) -> Dependency:
        if not self._nats_enabled:
            return Dependency(state="disabled", reason="FLEET_NATS_ENABLED is off")
        try:
            listeners = Listeners(self._client).list()
        except RedisError:
            return _unknown("listeners")
        if not listeners:
            return _down("no listener is running")
        return UP if any(one.nats == "connected" for one in listeners) else _down("no listener is connected to it")

    def _workers(self) -> Dependency:
        try:
            states, models = Workers(self._client).list(), Queues(self._client).models()
        except RedisError:
            return _unknown("workers")
        reasons = ((queue, why_unserved(queue, states, models)) for queue in self._queues)
        missing = [_nobody(queue, reason) for queue, reason in reasons if reason]
        return _down("; ".join(missing)) if missing else UP


def _nobody(queue: str, reason: str) -> str:
    nobody = f"no worker takes jobs from the queue {queue}"
    if reason == NONE_RUNS:
        return f"{nobody}: start one with `{start_command(queue)}`"
    return f"{nobody}: {reason}"


def _unknown(reporters: str) -> Dependency:
    return _down(f"what the {reporters} say is in valkey, which is down")


def _down(reason: str) -> Dependency:
    return Dependency(state="down", reason=reason)
