"""The event log as Server-Sent Events."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog
from redis.exceptions import RedisError

from fleet.events import FINAL
from fleet.store import LoggedEvent
from fleet.store.eventlog import EventLog, order

log = structlog.get_logger(__name__)

RETRY_MS = 1000
_BATCH = 200


@dataclass
class Feed:
    """Events after the id `after`: up to the id `until`, or without one until `stopping()`.

    With a `deliberation_id` only its events, and only until it is final; whether it is `over` is asked at heartbeats
    too, since a reader that was away for long may find its events gone. Where the log was trimmed before it was read,
    an event `fleet.gap` says so. While ValKey is away an open-ended feed goes on waiting, one with an end raises
    RedisError: what was cut short must not look whole.
    """

    log: EventLog
    after: str
    until: str | None = None
    deliberation_id: str | None = None
    stopping: Callable[[], bool] = lambda: False
    over: Callable[[], bool] = lambda: False
    heartbeat_s: float = 10.0
    block_ms: int = 1000
    _first: bool = field(default=True, init=False)

    def lines(self) -> Iterator[str]:
        """Chunks of the stream. Comments come at least every `heartbeat_s`, so that a dead connection is noticed."""
        yield f"retry: {RETRY_MS}\nid: {self.after}\n\n"  # who loses the connection before an event resumes here
        said = time.monotonic()
        while not self._ended():
            text = self._next()
            if not text and time.monotonic() - said >= self.heartbeat_s:
                text = ": heartbeat\n\n"
                self._end_if_over()
            if text:
                yield text
                said = time.monotonic()

    def _ended(self) -> bool:
        if self.until is None:
            return self.stopping()
        return order(self.after) >= order(self.until)  # not before, for it would look whole

    def _next(self) -> str:
        """The next events; none after a while without any."""
        try:
            events = self.log.read(self.after, _BATCH, None if self.until else self.block_ms, self.deliberation_id)
            gap = self._gap(events)
        except RedisError as error:
            if self.until:
                raise
            log.warning("api.feed_waits", error=repr(error))
            time.sleep(self.block_ms / 1000)
            return ""
        if events:
            self.after = events[-1].id
        elif self.until:
            self.until = self.after
        if self.deliberation_id and self.until is None and any(event.subject in FINAL for event in events):
            self.until = self.log.newest_id(self.deliberation_id)  # what belongs to its end was logged in the same step
        return gap + "".join(map(_frame, events))

    def _gap(self, events: list[LoggedEvent]) -> str:
        """Says that events before these were trimmed unread, which only happens to who is more than a batch behind."""
        looks, self._first = self._first or len(events) == _BATCH, False
        if self.deliberation_id or self.after == "0" or not events or not looks:
            return ""
        oldest = self.log.missed(self.after)
        return f'event: fleet.gap\ndata: {{"after": "{self.after}", "oldest": "{oldest}"}}\n\n' if oldest else ""

    def _end_if_over(self) -> None:
        with contextlib.suppress(RedisError):
            if self.until is None and self.over():
                self.until = self.log.newest_id(self.deliberation_id)


def _frame(event: LoggedEvent) -> str:
    return f"id: {event.id}\nevent: {event.subject}\ndata: {event.payload}\n\n"
