"""The watchdog of every council worker: finds deliberations left in the middle, and parts whose message got lost.

Safe in any number of workers: what is due is handed out with a lease, and everything it sends is idempotent.
"""

import threading
from typing import Any

import structlog
from celery import bootsteps
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from fleet.dispatch import ADVANCE, COUNCIL_QUEUE, Dispatcher, lanes
from fleet.errors import Unavailable
from fleet.graph import Graph
from fleet.settings import Settings, get_settings
from fleet.store import RECORD, Part, Store
from fleet.tasks.graph import one_tries

log = structlog.get_logger(__name__)

INTERVAL_S = 1.0
FORGET_EVERY = 60  # rounds


class Watchdog(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the watchdog's thread in a worker that consumes the council's queue."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any):
        super().__init__(parent, **kwargs)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def include_if(self, parent: Any) -> bool:
        return COUNCIL_QUEUE in parent.app.amqp.queues.consume_from

    def start(self, parent: Any) -> None:
        if self._thread is None or not self._thread.is_alive():  # called again after every lost connection
            self._stop.clear()
            self._thread = threading.Thread(target=self._watch, args=(parent.app,), name="watchdog", daemon=True)
            self._thread.start()

    def shutdown(self, parent: Any) -> None:  # noqa: ARG002
        self._stop.set()

    def _watch(self, app: Any) -> None:
        settings = get_settings()
        store = Store.from_settings(settings)
        _ensure_schema(settings)
        watch = Watch(store, Dispatcher(store, settings, app), app, settings)
        away = False
        while not self._stop.wait(INTERVAL_S):
            try:
                watch.once()
                away = False
            except (RedisError, OperationalError) as error:
                if not away:
                    log.warning("watchdog.valkey_away", reason=str(error))
                away = True
            except Exception:
                log.exception("watchdog.failed")
        store.close()


def _ensure_schema(settings: Settings) -> None:
    """Makes the graph's constraints when the worker starts; whoever writes first makes them if Neo4j is away now."""
    with Graph.from_settings(settings) as graph:
        try:
            graph.ensure_schema()
        except Unavailable as error:
            log.warning("watchdog.graph_away", reason=str(error))
        except Exception:  # whoever writes says so too; what is due is to be looked after all the same
            log.exception("watchdog.schema_failed")


class Watch:
    """One round of looking after deliberations."""

    def __init__(self, store: Store, dispatcher: Dispatcher, app: Any, settings: Settings):
        self._store, self._dispatcher, self._app, self._settings = store, dispatcher, app, settings
        self._rounds = 0

    def once(self) -> None:
        if self._rounds == 0:
            self._dispatcher.ensure_councils()
        # One finds out whether Neo4j is back. If all did, they would keep the processors from starting it.
        for id in self._store.deliberations.take_due(one_of=RECORD if one_tries.away else ""):
            self._app.send_task(ADVANCE, args=(id,), queue=COUNCIL_QUEUE)
            log.info("watchdog.advance", deliberation_id=id)
        for lane in self._lanes():
            for part in self._store.deliberations.take_lost(lane):
                self._publish_again(part, lane)
        if self._rounds % FORGET_EVERY == 0:
            self._store.deliberations.forget_finished()
            if not self._settings.nats_enabled:
                self._store.events.trim()
        self._rounds += 1

    def _publish_again(self, part: Part, lane: str) -> None:
        try:
            self._dispatcher.publish_again(part, lane)
            log.warning("watchdog.publish_again", part=part.id)
        except (RedisError, OperationalError):
            raise
        except Exception:  # one that cannot be published must not keep the others from it
            log.exception("watchdog.not_published", part=part.id)

    def _lanes(self) -> list[str]:
        """Every list that agents' parts may wait in."""
        return [lane for queue in self._store.queues.models() for lane in lanes(queue)]
