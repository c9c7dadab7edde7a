"""The header Idempotency-Key: within 24 hours, a caller's key stands for one request and its answer."""

import contextlib
import time
from collections.abc import Callable

from flask import Response, g, make_response, request
from flask.typing import ResponseReturnValue
from redis.exceptions import RedisError

from fleet.api import problems
from fleet.api.problems import Refused
from fleet.api.reading import idempotency_key
from fleet.api.services import services
from fleet.models import Model, derive_id, digest
from fleet.store.idempotency import Claim

MOST_BYTES = 256 * 1024
MOST_BYTES_MADE_AGAIN = 2 * 1024
_PAUSE_S = 0.02


class KeptAnswer(Model):
    """An answer as it is kept; without `body` when that holds a secret, with an empty one when it is made again."""

    status: int
    content_type: str | None = None
    location: str | None = None
    body: str | None = None


def answered_once(view: Callable[[], ResponseReturnValue], body: Model | None, *, secret: bool) -> ResponseReturnValue:
    """What the view answers; to a request that comes again with its key, what it answered then.

    A request that is refused frees its key. If what works on it dies, the next one with the key does it: views derive
    what they make from `seed`. Of an answer with a Location, a body over 2 KiB is not kept, but made again by the view,
    as what was made is then. An answer over 256 KiB without one is not kept: its request is done again.

    Raises: Refused (422 the key is invalid or stands for another request, 409 the answer held a secret).
    """
    key = idempotency_key()
    if key is None:
        return view()
    claim = _claim(g.caller.key_id, key, _content(body))
    if claim.state == "other":
        raise Refused(problems.KEY_REUSED, f"the key {key} stands for another request")
    g.idempotency_seed = claim.seed
    return _again(view, claim.answer) if claim.state == "answered" else _carry_out(view, claim, secret)


def seed() -> str | None:
    """The same random text however often the request is sent with its key; None without one."""
    found: str | None = g.get("idempotency_seed")
    return found


def derived_id(*parts: str | None) -> str | None:
    """The same id for the same parts however often the request is sent with its key; None without one."""
    found = seed()
    return derive_id(found, *parts) if found else None


def _claim(caller: str, key: str, content: str) -> Claim:
    """Waits while the same request is worked on; not for longer than its lease."""
    while (claim := services().store.idempotency.claim(caller, key, content)).state == "busy":
        time.sleep(_PAUSE_S)
    return claim


def _content(body: Model | None) -> str:
    return digest([request.path, body.model_dump(mode="json", exclude_defaults=True) if body else None])


def _carry_out(view: Callable[[], ResponseReturnValue], claim: Claim, secret: bool) -> Response:
    bindings = services().store.idempotency
    try:
        response = make_response(view())
    except Exception:
        _settle(lambda: bindings.free(claim))
        raise
    if response.status_code < 400:
        _settle(lambda: bindings.keep(claim, _kept(response, secret)))
    else:
        _settle(lambda: bindings.free(claim))
    return response


def _settle(change: Callable[[], None]) -> None:
    """Without ValKey the lease runs out, and the same request is done again."""
    with contextlib.suppress(RedisError):
        change()


def _kept(response: Response, secret: bool) -> str:
    """The answer as text; empty for one that is too large."""
    body = None if secret else response.get_data(as_text=True)
    size = len(body.encode()) if body else 0
    if response.location and size > MOST_BYTES_MADE_AGAIN:
        body = ""
    elif size > MOST_BYTES:
        return ""
    return KeptAnswer(
        status=response.status_code, content_type=response.content_type, location=response.location, body=body
    ).kept()


def _again(view: Callable[[], ResponseReturnValue], text: str) -> Response:
    kept = KeptAnswer.read(text)
    if kept.body is None:
        raise Refused(problems.ANSWERED_ONCE, problems.ANSWERED_ONCE.meaning)
    if kept.body:
        response = Response(kept.body, kept.status, content_type=kept.content_type)
    else:
        response = make_response(view())
        response.status_code = kept.status
    if kept.location:
        response.headers["Location"] = kept.location
    return response
