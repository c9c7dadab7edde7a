"""Reads a request's body, query and headers into models; whatever is wrong with them ends the request."""

import json
import re
import time
from typing import Any, TypeVar

from flask import request
from pydantic import ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from fleet.api import problems
from fleet.api.problems import Refused, invalid
from fleet.models import Model

M = TypeVar("M", bound=Model)

MOST_BYTES = 1024 * 1024
IDEMPOTENCY_KEY = "Idempotency-Key"
_KEY = re.compile(r"[!-~]{1,255}")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_MOST_DIGITS = 30
_DISCARD_BYTES = 32 * MOST_BYTES
_DISCARD_S = 5.0

_Place = tuple["_Place | None", str | int]


def read_body(model: type[M]) -> M:
    """The JSON body. Raises: Refused (413, 415, 422)."""
    if request.mimetype != "application/json":
        raise Refused(problems.UNSUPPORTED, problems.UNSUPPORTED.meaning)
    document = parse_json(_read())
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise problems.faults_of(error, "body") from None


def _read() -> bytes:
    """The body's bytes. Raises: Refused (413; 422 when the connection ended early)."""
    try:
        data = request.get_data(cache=False)
    except RequestEntityTooLarge:
        data = bytes(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        _discard()
        raise Refused(problems.TOO_LARGE, problems.TOO_LARGE.meaning)
    if request.content_length not in (None, len(data)):
        raise invalid(["body"], "is shorter than Content-Length says")
    return data


def _discard() -> None:
    """Reads what a client goes on sending, within limits: it may look for an answer only when it has sent all."""
    deadline, left = time.monotonic() + _DISCARD_S, _DISCARD_BYTES
    while left > 0 and time.monotonic() < deadline and (data := request.environ["wsgi.input"].read(65_536)):
        left -= len(data)


def parse_json(data: bytes) -> Any:
    """What JSON says, strictly: UTF-8, no NaN, no repeated names, no texts that could not be stored everywhere.

    Raises: Refused (422).
    """
    try:
        document = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_short_integer
        )
    except RecursionError:
        raise invalid(["body"], "is nested too deeply") from None
    except UnicodeDecodeError:
        raise invalid(["body"], "is not UTF-8") from None
    except ValueError as error:
        raise invalid(["body"], f"is not valid JSON: {error}") from None
    _check_texts(document)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"the name {name[:100]!a} is repeated")
        members[name] = value
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _short_integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"an integer has more than {_MOST_DIGITS} digits")
    return int(digits)


def _check_texts(document: Any) -> None:
    """Refuses NUL, which ends a text elsewhere, and lone surrogates, which are no text at all."""
    # A place is (the place it is in, name or number): whole paths would take megabytes in a hostile document.
    pending: list[tuple[_Place, Any]] = [((None, "body"), document)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, dict):
            pending += [((place, name), part) for name, member in value.items() for part in (name, member)]
        elif isinstance(value, list):
            pending += [((place, number), member) for number, member in enumerate(value)]
        elif isinstance(value, str) and _NO_TEXT.search(value):
            raise invalid(_location(place), "has a NUL or half a surrogate pair")


def _location(place: _Place | None) -> list[str | int]:
    parts: list[str | int] = []
    while place:
        place, part = place
        parts.append(part if isinstance(part, int) else _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", part))
    return parts[::-1]


def read_query(model: type[M]) -> M:
    """The query's parameters, each at most once. Raises: Refused (422)."""
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise problems.refuse_faults([(["query", name], "is given more than once") for name in repeated])
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise problems.faults_of(error, "query") from None


def idempotency_key() -> str | None:
    """The header Idempotency-Key. Raises: Refused (422)."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not _KEY.fullmatch(key):
        raise invalid(["header", IDEMPOTENCY_KEY], "has 1 to 255 visible ASCII characters")
    return key
