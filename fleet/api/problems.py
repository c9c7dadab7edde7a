"""Every error that the API answers, as application/problem+json (RFC 9457), and how exceptions become one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response
from kombu.exceptions import OperationalError
from pydantic import Field, ValidationError
from redis.exceptions import RedisError
from werkzeug.exceptions import HTTPException

from fleet.errors import Conflict, InvalidRequest, NotFound, NotKept, QueueFull, Unavailable, WrongState
from fleet.models import Model

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
_MOST_FAULTS = 50
_LONGEST_PART = 200

Location = Sequence[str | int]


@dataclass(frozen=True, slots=True)
class Kind:
    """A problem's `type` is `/docs#problem-SLUG`, where `meaning` is explained."""

    slug: str
    status: HTTPStatus
    title: str
    meaning: str

    @property
    def type(self) -> str:
        return f"/docs#problem-{self.slug}"


MALFORMED = Kind("malformed", HTTPStatus.BAD_REQUEST, "Not HTTP", "The request breaks the rules of HTTP itself.")
UNAUTHORIZED = Kind(
    "unauthorized",
    HTTPStatus.UNAUTHORIZED,
    "No valid key",
    "Send `Authorization: Bearer KEY` with a key of this fleet.",
)
FORBIDDEN = Kind(
    "forbidden",
    HTTPStatus.FORBIDDEN,
    "Not allowed",
    "The key has not the scope that the operation needs. Without a configured key, only this machine is answered.",
)
NOT_FOUND = Kind("not-found", HTTPStatus.NOT_FOUND, "Not found", "There is nothing under this path or id.")
METHOD_NOT_ALLOWED = Kind(
    "method-not-allowed",
    HTTPStatus.METHOD_NOT_ALLOWED,
    "Method not allowed",
    "The header Allow lists the methods that this path has.",
)
CONFLICT = Kind(
    "conflict",
    HTTPStatus.CONFLICT,
    "Conflict",
    "The id was used with other content. What was stored first stays; use another id.",
)
WRONG_STATE = Kind(
    "wrong-state",
    HTTPStatus.CONFLICT,
    "Not in this state",
    "What is final cannot be cancelled, what is not cannot be replayed; a council has 1 to 10 agents, each once.",
)
TOO_LARGE = Kind("too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Body too large", "A body has at most 1 MiB.")
UNSUPPORTED = Kind(
    "unsupported-media-type",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "Unsupported media type",
    "Send JSON, with `Content-Type: application/json`.",
)
INVALID = Kind(
    "invalid-request",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "Invalid request",
    "`errors` lists each fault with its place: malformed JSON, a missing, unknown or wrong field, parameter or header.",
)
KEY_REUSED = Kind(
    "idempotency-key-reused",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "Idempotency-Key used before",
    "Within 24 hours a key stands for one request. Send the same body again, or use another key.",
)
ANSWERED_ONCE = Kind(
    "answered-once",
    HTTPStatus.CONFLICT,
    "Answered before",
    "It was done, and its answer held a secret that is told once. If that answer was lost, revoke what was made, and "
    "make another with another Idempotency-Key.",
)
INTERNAL = Kind(
    "internal",
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "Internal error",
    "A fault of the server. Its log has the details under the request id.",
)
BUSY = Kind(
    "busy",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many open streams",
    "Streams and long waits may not take every thread. Try again after Retry-After seconds.",
)
UNAVAILABLE = Kind(
    "unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "A server is away",
    "ValKey or Neo4j does not answer. Send the same request again after Retry-After seconds: nothing is done twice.",
)
NOT_KEPT = Kind(
    "not-kept",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Not safely kept",
    "ValKey has almost no memory left, or does not confirm that it has the work on disk, which FLEET_DURABILITY asks "
    "for. Send the same request again after Retry-After seconds: nothing is done twice.",
)
QUEUE_FULL = Kind(
    "queue-full",
    HTTPStatus.TOO_MANY_REQUESTS,
    "Too much waits",
    "As many deliberations as may be are not final yet (FLEET_QUEUE_LIMIT). Nothing of the request was stored: send it "
    "again after Retry-After seconds. What was accepted before is not affected.",
)
RATE_LIMITED = Kind(
    "rate-limited",
    HTTPStatus.TOO_MANY_REQUESTS,
    "Too many requests",
    "The key may not send that many requests for work a minute (FLEET_RATE_LIMIT_PER_MINUTE). Send it again after "
    "Retry-After seconds; reading is never limited.",
)
KINDS = (
    MALFORMED,
    UNAUTHORIZED,
    FORBIDDEN,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    CONFLICT,
    WRONG_STATE,
    TOO_LARGE,
    UNSUPPORTED,
    INVALID,
    KEY_REUSED,
    ANSWERED_ONCE,
    INTERNAL,
    BUSY,
    UNAVAILABLE,
    NOT_KEPT,
    QUEUE_FULL,
    RATE_LIMITED,
)
_BY_STATUS = {kind.status: kind for kind in reversed(KINDS)}


class Fault(Model):
    """Where the fault is ("body", "query" or "header", then the path of the field), and what it is."""

    loc: tuple[str | int, ...]
    msg: str


class Problem(Model):
    type: str = Field(json_schema_extra={"format": "uri-reference"})
    title: str
    status: int
    detail: str
    errors: tuple[Fault, ...] | None = Field(None, description="Present for bad input; at most 50")


class Refused(Exception):
    """Ends a request with a problem."""

    def __init__(
        self, kind: Kind, detail: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(kind, detail, faults, headers)
        self.kind, self.detail, self.faults, self.headers = kind, detail, faults, headers


def invalid(location: Location, message: str) -> Refused:
    """Bad input with one fault."""
    return refuse_faults([(location, message)])


def refuse_faults(faults: Sequence[tuple[Location, str]]) -> Refused:
    """Bad input; keeps the first 50 faults, and the parts of a location short."""
    kept = [
        Fault(loc=tuple(part if isinstance(part, int) else part[:_LONGEST_PART] for part in location), msg=message)
        for location, message in faults[:_MOST_FAULTS]
    ]
    more = len(faults) - len(kept)
    return Refused(INVALID, f"{len(kept)} of {len(faults)} faults" if more else _summary(kept), kept)


def faults_of(error: ValidationError, where: str) -> Refused:
    """What pydantic found wrong, each location behind `where`."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return refuse_faults([((where, *one["loc"]), one["msg"].removeprefix("Value error, ")) for one in found])


def _summary(faults: Sequence[Fault]) -> str:
    """ "body.role: Field required", and how many more there are."""
    first = faults[0]
    text = f"{'.'.join(map(str, first.loc))}: {first.msg}"
    return text if len(faults) == 1 else f"{text} (and {len(faults) - 1} more)"


def answer(
    kind: Kind,
    detail: str,
    faults: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """The problem as a response; `extra` are further members of the document."""
    problem = Problem(
        type=kind.type, title=kind.title, status=kind.status, detail=detail, errors=tuple(faults) or None
    ).model_dump(mode="json", exclude_none=True)
    response = Response(json.dumps(problem | dict(extra or {}), ensure_ascii=False), kind.status, mimetype=MEDIA_TYPE)
    response.headers.update(headers or {})
    if kind.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        response.headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    return response


def install(app: Flask) -> None:
    """Makes every exception a problem."""
    app.register_error_handler(Refused, lambda error: answer(error.kind, error.detail, error.faults, error.headers))
    app.register_error_handler(InvalidRequest, _invalid_request)
    app.register_error_handler(Conflict, lambda error: answer(CONFLICT, str(error)))
    app.register_error_handler(WrongState, lambda error: answer(WRONG_STATE, str(error)))
    app.register_error_handler(NotFound, lambda error: answer(NOT_FOUND, str(error)))
    app.register_error_handler(QueueFull, lambda error: answer(QUEUE_FULL, str(error)))
    app.register_error_handler(NotKept, _not_kept)
    for outage in (RedisError, OperationalError, Unavailable):
        app.register_error_handler(outage, _unavailable)
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(Exception, _unexpected)


def _invalid_request(error: InvalidRequest) -> Response:
    refused = refuse_faults([(("body", *location), message) for location, message in error.faults])
    return answer(refused.kind, refused.detail, refused.faults)


def _unavailable(error: Exception) -> Response:
    log.warning("api.unavailable", error=repr(error))
    server = error.server if isinstance(error, Unavailable) else "valkey"
    return answer(UNAVAILABLE, f"{server} does not answer; send the request again")


def _not_kept(error: NotKept) -> Response:
    log.warning("api.not_kept", reason=error.reason)
    return answer(NOT_KEPT, error.reason)


def _http_exception(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    kind = _BY_STATUS.get(status) or Kind("other", status, status.phrase, status.description)
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return answer(kind, kind.meaning, headers=headers)


def _unexpected(error: Exception) -> Response:
    log.exception("api.internal_error", exc_info=error)
    return answer(INTERNAL, INTERNAL.meaning)
