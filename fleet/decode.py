"""From the bytes of an event to the domain; the listener reads events by it, the API the dead letters made of them.

What cannot be read can never be: it becomes a dead letter, which stays one until this code reads more.
"""

import json
from collections.abc import Iterable
from datetime import UTC
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fleet.errors import InvalidRequest, UnknownFormat, UnknownRole
from fleet.models import Decision, Model, PlanRequest, StoryTransition, Task, check_format

MAX_BYTES = 2**20
_LONGEST_NAME = 200

M = TypeVar("M", bound=Model)


def decode_plan(data: bytes) -> PlanRequest:
    """Raises: InvalidRequest; UnknownRole when a role of the plan is none of Fleet's."""
    document = _parse(data, MAX_BYTES)
    if missing := [field for field in ("approved_by", "timestamp") if document.get(field) is None]:
        raise InvalidRequest([((field,), "Field required") for field in missing])
    return _validated(PlanRequest, document)


def decode_transition(data: bytes) -> StoryTransition:
    """A time without a zone is taken as UTC. Raises: InvalidRequest."""
    transition = _validated(StoryTransition, _parse(data, MAX_BYTES))
    if transition.timestamp.tzinfo is None:
        return transition.model_copy(update={"timestamp": transition.timestamp.replace(tzinfo=UTC)})
    return transition


def decode_task(data: bytes) -> Task:
    """Raises: InvalidRequest."""
    return _validated(Task, _parse(data))


def decode_work(data: bytes) -> Task | Decision:
    """What the council could not do: decide on a task, or write a decision. Raises: InvalidRequest."""
    document = _parse(data)
    return _validated(Decision, document) if "decided_at_ms" in document else _validated(Task, document)


def as_text(data: bytes) -> str:
    """A message as text to be kept: what is no UTF-8 is escaped, what is longer than 1 MiB is cut."""
    return data[:MAX_BYTES].decode(errors="backslashreplace")


def _validated(model: type[M], document: dict[str, Any]) -> M:
    try:
        return model.model_validate(document, extra="ignore")
    except ValidationError as error:
        raise _invalid(error) from None


def _parse(data: bytes, most: int | None = None) -> dict[str, Any]:
    if most is not None and len(data) > most:
        raise InvalidRequest([((), f"{len(data)} bytes are more than {most}")])
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest([((), f"not JSON: {error}")]) from None
    if not isinstance(document, dict):
        raise InvalidRequest([((), "not a JSON object")])
    try:
        check_format(document.get("v"))
    except UnknownFormat as error:
        raise InvalidRequest([(("v",), str(error))]) from None
    return document


def _invalid(error: ValidationError) -> InvalidRequest:
    faults = error.errors(include_url=False, include_context=False)
    unknown = [fault for fault in faults if _is_unknown_role(fault)]
    if unknown:
        return UnknownRole([(_shown(fault["loc"]), f"unknown role {fault['input']!r}") for fault in unknown])
    return InvalidRequest([(_shown(fault["loc"]), fault["msg"]) for fault in faults])


def _shown(location: Iterable[str | int]) -> tuple[str | int, ...]:
    """The location on one line of any terminal: its names may be the sender's, and become a dead letter's reason."""
    return tuple(part if isinstance(part, int) else _printable(part) for part in location)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:_LONGEST_NAME])


def _is_unknown_role(fault: ErrorDetails) -> bool:
    """`roles.0` or `subtasks.0.role`."""
    location = fault["loc"]
    in_place = (location[:1] == ("roles",) and len(location) == 2) or location[-1:] == ("role",)
    return in_place and fault["type"] == "enum"
