"""/v1/deliberations/{id}/tokens."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import structlog
from flask import Response
from pydantic import Field, ValidationError
from redis.exceptions import RedisError

from fleet.api.deliberations import find
from fleet.api.events import MEDIA_TYPE, ended_early, streaming
from fleet.api.feed import RETRY_MS
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.events import TokensWritten
from fleet.models import Model
from fleet.store.tokens import Subscription

log = structlog.get_logger(__name__)
tokens = Section("tokens", "What agents write, while they write it, as Server-Sent Events")

_STREAM = Answer("What is written from now on; `event` is its subject on NATS", media_type=MEDIA_TYPE)


class TokensQuery(Model):
    follow: bool = Field(True, description="`false` ends the stream at the present, before anything is written")


@tokens.operation(
    "GET",
    "/deliberations/{deliberation_id}/tokens",
    Operation(
        summary="What the agents of one deliberation write",
        description="From now on, in pieces of 50 ms or 32 tokens. Nothing of it is kept: events have no `id`, and "
        "what came while nobody listened does not come again. The answers themselves are in the deliberation. Lines "
        "that begin with a colon are heartbeats. The stream ends when the deliberation is final; a last event "
        "`fleet.gap` says that it ended for another reason, such as a reader that was too slow: reconnect.",
        query=TokensQuery,
        answers={200: _STREAM, 204: Answer("It is final: do not reconnect", media_type=None)},
    ),
)
def stream_tokens(deliberation_id: str, query: TokensQuery) -> Response:
    all, unwanted = services(), ended_early()
    if find(all, deliberation_id).status.final:
        nothing = Response(status=204)
        nothing.headers.remove("Content-Type")
        return nothing
    held = ExitStack()
    subscription = all.store.tokens.subscribe(deliberation_id)
    held.callback(subscription.close)

    def over() -> bool:
        where = all.store.deliberations.where(deliberation_id)
        return where is None or where.status.final

    feed = TokenFeed(subscription, over, lambda: not query.follow or unwanted())
    return streaming(feed.lines(), held)


@dataclass
class TokenFeed:
    """What a subscription hears, until `stopping()`, or until the deliberation is `over()` and all of it was told."""

    subscription: Subscription
    over: Callable[[], bool]
    stopping: Callable[[], bool]
    heartbeat_s: float = 10.0
    look_s: float = 1.0
    rest_s: float = 0.2  # for what was on its way to ValKey when it was over

    def lines(self) -> Iterator[str]:
        """Chunks of the stream. Comments come at least every `heartbeat_s`, so that a dead connection is noticed."""
        yield f"retry: {RETRY_MS}\n\n"
        try:
            yield from self._heard()
        except RedisError as error:  # ValKey is away, or dropped a reader that was too slow
            log.warning("api.token_feed_ended", error=repr(error))
            yield f"event: fleet.gap\ndata: {json.dumps({'reason': str(error)})}\n\n"

    def _heard(self) -> Iterator[str]:
        said = time.monotonic()
        look_at = 0.0
        over = False
        while not self.stopping():
            if time.monotonic() >= look_at:
                over, look_at = self.over(), time.monotonic() + self.look_s
            text = "".join(map(_frame, self.subscription.read(self.rest_s if over else self.look_s)))
            if over and not text:
                return
            if not text and time.monotonic() - said >= self.heartbeat_s:
                text = ": heartbeat\n\n"
            if text:
                yield text
                said = time.monotonic()


def _frame(payload: str) -> str:
    try:
        subject = TokensWritten.model_validate_json(payload).subject
    except ValidationError as error:  # somebody else's message
        log.warning("api.token_not_readable", error=str(error))
        return ""
    return f"event: {subject}\ndata: {payload}\n\n"
