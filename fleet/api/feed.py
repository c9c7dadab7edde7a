"""The event log as Server-Sent Events."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog
from redis.exceptions import RedisError

from fleet.store import LoggedEvent
from fleet.store.eventlog import EventLog

log = structlog.get_logger(__name__)

RETRY_MS = 1000
_BATCH = 200
_LAST = tuple(f"orchestration.deliberation.{ending}" for ending in ("completed", "failed", "cancelled"))


def order(id: str) -> tuple[int, int]:
    """Sorts event ids ("1763721600000-0") as the log does."""
    ms, _, number = id.partition("-")
    return int(ms), int(number or 0)


@dataclass
class Feed:
    """Events after the id `after`: up to the id `until`, or without one until `stopping()`.

    With a `deliberation_id` only its events, and only until it is final. While ValKey is away an open-ended feed goes
    on waiting, one with an end raises RedisError: what was cut short must not look whole.
    """

    log: EventLog
    after: str
    until: str | None = None
    deliberation_id: str | None = None
    stopping: Callable[[], bool] = lambda: False
    heartbeat_s: float = 10.0
    block_ms: int = 1000

    def lines(self) -> Iterator[str]:
        """Chunks of the stream. Comments come at least every `heartbeat_s`, so that a dead connection is noticed."""
        yield f"retry: {RETRY_MS}\n\n"
        said = time.monotonic()
        while not self._ended():
            text = "".join(map(_frame, self._read()))
            if not text and time.monotonic() - said >= self.heartbeat_s:
                text = ": heartbeat\n\n"
            if text:
                yield text
                said = time.monotonic()

    def _ended(self) -> bool:
        return self.stopping() or (self.until is not None and order(self.after) >= order(self.until))

    def _read(self) -> list[LoggedEvent]:
        """The next wanted events; none after a while without any."""
        try:
            events = self.log.read(self.after, _BATCH, None if self.until else self.block_ms)
        except RedisError as error:
            if self.until:
                raise
            log.warning("api.feed_waits", error=repr(error))
            time.sleep(self.block_ms / 1000)
            return []
        if events:
            self.after = events[-1].id
        elif self.until:
            self.until = self.after
        return [event for event in events if self._wanted(event)]

    def _wanted(self, event: LoggedEvent) -> bool:
        if self.deliberation_id is None:
            return True
        if event.deliberation_id != self.deliberation_id:
            return False
        if self.until is None and event.subject in _LAST:
            self.until = self.log.newest_id()  # what belongs to its end was logged with it, in one step
        return True


def _frame(event: LoggedEvent) -> str:
    return f"id: {event.id}\nevent: {event.subject}\ndata: {event.payload}\n\n"
