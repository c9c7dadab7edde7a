"""/v1/events and /v1/deliberations/{id}/events."""

import itertools
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from flask import Response, g, request
from pydantic import Field

from fleet.api.auth import Revoked
from fleet.api.deliberations import find
from fleet.api.feed import Feed
from fleet.api.peer import gone
from fleet.api.problems import invalid
from fleet.api.section import Answer, Header, Operation, Section
from fleet.api.services import services
from fleet.models import Model

events = Section("events", "What happens, as Server-Sent Events")

LAST_EVENT_ID = "Last-Event-ID"
_ID = re.compile(r"\d{1,19}(-\d{1,19})?")
MEDIA_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_STREAM = Answer("The events: `id` is their place in the log, `event` their subject", media_type=MEDIA_TYPE)
_LAST = Header(
    LAST_EVENT_ID,
    "Only what came after this event; has precedence over `after`",
    {"type": "string", "pattern": f"^{_ID.pattern}$"},
)


class EventsQuery(Model):
    follow: bool = Field(True, description="`false` ends the stream at the present")
    after: str = Field(
        "0",
        pattern=rf"^({_ID.pattern}|\$)$",
        description="Only what came after this event: 0 is the beginning of the log, $ its end",
    )


@events.operation(
    "GET",
    "/events",
    Operation(
        summary="All events",
        description="Lines that begin with a colon are heartbeats. Reconnect with the last `id` as Last-Event-ID. "
        "An event `fleet.gap` says that older events were trimmed before they could be sent.",
        query=EventsQuery,
        headers=(_LAST,),
        answers={200: _STREAM},
    ),
)
def stream_events(query: EventsQuery) -> Response:
    newest = services().store.events.newest_id()
    after = _after(query, newest)
    return _stream(_feed(after, None if query.follow else newest))


@events.operation(
    "GET",
    "/deliberations/{deliberation_id}/events",
    Operation(
        summary="The events of one deliberation",
        description="The stream ends when the deliberation is final.",
        query=EventsQuery,
        headers=(_LAST,),
        answers={200: _STREAM, 204: Answer("Resumed after its last event: do not reconnect", media_type=None)},
    ),
)
def stream_deliberation(deliberation_id: str, query: EventsQuery) -> Response:
    found = find(services(), deliberation_id)
    newest = services().store.events.newest_id(deliberation_id)  # after the status: a final one has all its events
    ends = found.status.final or not query.follow
    feed = _feed(_after(query, newest), newest if ends else None, deliberation_id)
    return _stream(feed, resumed=ends and LAST_EVENT_ID in request.headers)


def _after(query: EventsQuery, newest: str) -> str:
    """The id to begin after. Raises: Refused (422)."""
    last = request.headers.get(LAST_EVENT_ID)
    if last is not None and not _ID.fullmatch(last):
        raise invalid(["header", LAST_EVENT_ID], "is no event id")
    after = last or query.after
    return newest if after == "$" else after


def _feed(after: str, until: str | None, deliberation_id: str | None = None) -> Feed:
    all, unwanted = services(), ended_early()

    def over() -> bool:
        where = all.store.deliberations.where(deliberation_id) if deliberation_id else None
        return deliberation_id is not None and (where is None or where.status.final)

    return Feed(all.store.events, after, until, deliberation_id, unwanted, over)


def ended_early() -> Callable[[], bool]:
    """Tells, now or later, whether the current request's stream has to end: for the server, its client or its key."""
    all, client_gone, revoked = services(), gone(), Revoked(g.caller, services().store.keys)
    return lambda: all.stopping() or client_gone() or revoked()


def _stream(feed: Feed, *, resumed: bool = False) -> Response:
    """The feed as a response; 204 when a client that reconnects has everything already."""
    chunks = feed.lines()
    beginning = list(itertools.islice(chunks, 2 if resumed else 0))
    if resumed and len(beginning) < 2:
        nothing = Response(status=204)
        nothing.headers.remove("Content-Type")
        return nothing
    return streaming(itertools.chain(beginning, chunks), ExitStack())


def streaming(chunks: Iterable[str], held: ExitStack) -> Response:
    """A response that is a long request until it is closed; then `held` is let go. Raises: Refused (503)."""
    with held:
        held.enter_context(services().long_requests.one())
        response = Response(chunks, mimetype=MEDIA_TYPE, headers=_HEADERS)
        response.call_on_close(held.pop_all().close)
        return response
