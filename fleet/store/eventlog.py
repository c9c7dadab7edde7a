"""The event log: one ValKey stream that the relay, SSE and the command line all read."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from fleet.events import Event
from fleet.models import check_format
from fleet.store.base import EVENTS, Scripts, events_key

_LEASE = "fleet:relay:lease"
_CURSOR = "fleet:relay:cursor"
_INSTANCE = "fleet:instance"


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An entry of the log. `id` grows with every event ("1763721600000-0"); `payload` is JSON."""

    id: str
    subject: str
    payload: str
    deliberation_id: str | None = None


def order(id: str) -> tuple[int, int]:
    """Sorts event ids ("1763721600000-0") as the log does."""
    ms, _, number = id.partition("-")
    return int(ms), int(number or 0)


def flatten(events: Sequence[Event]) -> list[str]:
    """Events as the alternating subjects and payloads that the Lua scripts append."""
    return [text for event in events for text in (event.subject, event.payload())]


def _logged(id: str, fields: Mapping[str, str]) -> LoggedEvent:
    check_format(fields.get("v"))
    return LoggedEvent(id, fields["subject"], fields["payload"], fields.get("deliberation_id"))


def _key(deliberation_id: str | None) -> str:
    return events_key(deliberation_id) if deliberation_id else EVENTS


class EventLog:
    """Reads the log, and keeps the relay's cursor and lease. The scripts that change the state append to it."""

    def __init__(self, client: "redis.Redis", scripts: Scripts):
        self._client, self._scripts = client, scripts

    def read(
        self, after: str = "0", count: int = 100, block_ms: int | None = None, deliberation_id: str | None = None
    ) -> list[LoggedEvent]:
        """Up to `count` events after the id `after` ("0" the beginning, "$" only what is yet to come).

        With `block_ms`, waits that long for the first one (at most 9,000: the socket's own time is 10 s). With a
        `deliberation_id` only its events, which have the same ids there and are kept for as long as it is.
        """
        answer: Any = self._client.xread({_key(deliberation_id): after}, count=count, block=block_ms)
        entries = next(iter(answer.values()), []) if isinstance(answer, dict) else (answer[0][1] if answer else [])
        if entries and isinstance(entries[0], list):
            entries = [entry for batch in entries for entry in batch]
        return [_logged(id, fields) for id, fields in entries]

    def newest_id(self, deliberation_id: str | None = None) -> str:
        """The id of the newest event, "0" if there is none."""
        newest: Any = self._client.xrevrange(_key(deliberation_id), count=1)
        return str(newest[0][0]) if newest else "0"

    def missed(self, after: str) -> str | None:
        """The oldest event there is, when events between `after` and it were trimmed; only of a log that has some."""
        found: Any = self._client.xinfo_stream(EVENTS)
        oldest = str(found["first-entry"][0])
        trimmed = found["entries-added"] > found["length"]
        return oldest if trimmed and order(after) < order(oldest) else None

    def instance(self) -> str:
        """A random name of this log, made once: event ids are unique only together with it."""
        self._client.set(_INSTANCE, secrets.token_hex(8), nx=True)
        return str(self._client.get(_INSTANCE))

    def lease(self, holder: str, ms: int) -> bool:
        """Takes or renews the relay's lease for `ms` milliseconds; False when somebody else holds it."""
        return bool(self._scripts.run("relay_lease", [_LEASE], [holder, ms]))

    def release(self, holder: str) -> None:
        """Gives the lease back, so that another listener need not wait for its end."""
        self._scripts.run("relay_lease", [_LEASE], [holder, 0])

    def cursor(self) -> str:
        """The id of the last event that the relay has published, "0" before the first."""
        return str(self._client.get(_CURSOR) or "0")

    def advance(self, holder: str, id: str, keep: int = 10_000) -> bool:
        """Moves the cursor to `id` while `holder` has the lease, and trims all but `keep` entries behind it."""
        return bool(self._scripts.run("relay_advance", [_LEASE, _CURSOR, EVENTS], [holder, id, keep]))

    def trim(self, keep: int = 10_000) -> None:
        """Trims all but about `keep` entries, for a fleet without a relay to do it behind its cursor."""
        self._client.xtrim(EVENTS, maxlen=keep)

    def backlog(self) -> int:
        """How many events the relay has yet to publish, counted up to 1,000."""
        after: Any = self._client.xrange(EVENTS, min=f"({self.cursor()}", count=1_000)
        return len(after)
