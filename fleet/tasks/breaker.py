"""What a part does about an engine's server that fails: it waits, and its deliberation's time does not run.

All workers share one circuit breaker per server (`fleet.store.breakers`); engines without a server have none.
* A part asks the breaker before it starts. While that is open the part holds its message and looks again every second:
  it has no attempt, so that its worker's death counts for nothing and hands the message on. Nobody else could do more
  with it, and in the queue it would be parted from its deliberation's others. A worker that is to end gives it back.
* Each look stops the deliberation's clock if it runs: what is left is what was left when the server began to fail, so
  an outage is made good once, whoever tells of it and however often. The step's chord gets the limit of a wait in a
  queue as its deadline. The next part that starts, so the one that tries the server, lets the clock run on.
* A part whose request the server failed waits too instead of failing, as long as its deliberation has time. If the
  server had taken the request, this is so three times only, for the request may be what the server fails of.
"""

import logging
import random
import time
from collections.abc import Callable

import structlog
from celery.exceptions import Reject

from fleet.engines.base import Completion, RemoteEngine
from fleet.errors import EndpointFailed, EngineCancelled, EngineError, EngineTimeout
from fleet.store import Attempt
from fleet.store.breakers import Asked, Limits, Standing, Told
from fleet.tasks.process import leaving, patient, runtime

log = structlog.get_logger(__name__)

MOST_TAKEN = 3  # failures of requests that the server had, after which it is the request's
LEAST_S = 2.0  # of the deliberation's time; with less the failure is told while it still counts


class Endpoint:
    """The server that one delivery of a part asks, if its engine has one. `stood` once the part has waited for it."""

    def __init__(self, attempt: Attempt, lane: str):
        engine, settings = runtime().engine, runtime().settings
        self.lane, self.stood = lane, False
        self._attempt = attempt
        self._name = engine.endpoint if isinstance(engine, RemoteEngine) else ""
        self._limits = Limits(settings.breaker_failures, int(settings.breaker_open_s * 1000))
        self._taken, self._open, self._pause_s, self._probes = 0, False, 0.0, False

    def admits(self) -> bool:
        """Waits until the part may ask; False when nobody wants it any more. Raises: Reject to give it back."""
        if not self._name:
            return True
        if self._pause_s:
            time.sleep(self._pause_s)
            self._give_back_if_leaving()
        while not (asked := self._ask()).go:
            if not self._stands_still(asked.failing_since_ms):
                return False
            self._give_back_if_leaving()
            time.sleep(random.uniform(0.5, 1.0))
        self._probes = asked.probes
        if self._probes:
            log.info("breaker.half_open", endpoint=self._name)
        return True

    def asked(self, call: Callable[[], Completion]) -> Completion:
        """What the server answers; its breaker hears of it."""
        if not self._name:
            return call()
        began = time.monotonic()
        try:
            completion = call()
        except EndpointFailed as error:
            self._failed(error.reason, began, error.retry_after_s)
            raise
        except EngineTimeout as error:
            if self._probes:  # else it may be a long answer
                self._failed(error.reason, began)
            raise
        except EngineError as error:
            if self._probes and not isinstance(error, EngineCancelled):  # it is there, and has said no
                self._answered()
            raise
        self._answered()
        return completion

    def again(self, error: EndpointFailed, left_s: float) -> bool:
        """Whether the part is to wait and ask again, its deliberation having so much time."""
        self._taken += error.taken
        if self._taken > MOST_TAKEN or not (self._open or left_s > LEAST_S):
            return False
        self._pause_s = 0.0 if self._open else random.uniform(0.5, 1.5)
        return True

    def _give_back_if_leaving(self) -> None:
        if leaving():
            log.info("part.given_back", reason=f"it waits for {self._name}")
            raise Reject(f"it waits for {self._name}", requeue=True)

    @patient
    def _ask(self) -> Asked:
        return runtime().store.breakers.ask(self._name, self._attempt)

    @patient
    def _stands_still(self, since_ms: int) -> Standing | None:
        here, part = runtime(), self._attempt.part
        ttl_ms = here.settings.queue_ttl_s * 1000
        found = here.store.breakers.stand_still(self._name, part, self.lane, since_ms, ttl_ms)
        if found and (found.stopped or not self.stood):  # whoever stopped it may have died before it told the chord
            here.dispatcher.set_deadline(part.deliberation_id, part.step, found.until_ms / 1000)
            self.stood = True
        return found

    @patient
    def _answered(self) -> None:
        told = runtime().store.breakers.answered(self._name, self._attempt)
        if told.changed:
            log.info("breaker.closed", endpoint=self._name, failures=told.failures)

    @patient
    def _failed(self, reason: str, began: float, retry_after_s: float = 0.0) -> None:
        times = {"took_ms": int((time.monotonic() - began) * 1000), "least_ms": int(retry_after_s * 1000)}
        told = runtime().store.breakers.failed(self._name, self._attempt, reason, self._limits, **times)
        self._open = told.state != "closed"
        if told.changed:
            _log_opened(self._name, told, reason)


def _log_opened(endpoint: str, told: Told, reason: str) -> None:
    log.warning(
        "breaker.open", endpoint=endpoint, failures=told.failures, reason=reason, next_try_in_s=told.next_ms / 1000
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Celery shows a part that is given back as if it had crashed; what gives it back says so itself."""
    data = getattr(record, "data", None)
    return not (isinstance(data, dict) and data.get("description") == "rejected")


logging.getLogger("celery.app.trace").addFilter(_is_news)
