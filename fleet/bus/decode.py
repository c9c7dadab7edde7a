"""From the bytes of an event to the domain. What cannot be read can never be: it becomes a dead letter."""

import json
from datetime import UTC
from typing import Any, TypeVar

from pydantic import ValidationError

from fleet.errors import InvalidRequest, UnknownRole
from fleet.models import Model, PlanRequest, StoryTransition

MAX_BYTES = 2**20

M = TypeVar("M", bound=Model)


def decode_plan(data: bytes) -> PlanRequest:
    """Raises: InvalidRequest; UnknownRole when a role of the plan is none of Fleet's."""
    return _decode(PlanRequest, data, required=("approved_by", "timestamp"))


def decode_transition(data: bytes) -> StoryTransition:
    """A time without a zone is taken as UTC. Raises: InvalidRequest."""
    transition = _decode(StoryTransition, data)
    if transition.timestamp.tzinfo is None:
        return transition.model_copy(update={"timestamp": transition.timestamp.replace(tzinfo=UTC)})
    return transition


def as_text(data: bytes) -> str:
    """A message as text to be kept: what is no UTF-8 is escaped, what is longer than 1 MiB is cut."""
    return data[:MAX_BYTES].decode(errors="backslashreplace")


def _decode(model: type[M], data: bytes, required: tuple[str, ...] = ()) -> M:
    document = _parse(data)
    if missing := [field for field in required if document.get(field) is None]:
        raise InvalidRequest([((field,), "Field required") for field in missing])
    try:
        return model.model_validate(document, extra="ignore")
    except ValidationError as error:
        raise _invalid(error) from None


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise InvalidRequest([((), f"{len(data)} bytes are more than {MAX_BYTES}")])
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest([((), f"not JSON: {error}")]) from None
    if not isinstance(document, dict):
        raise InvalidRequest([((), "not a JSON object")])
    return document


def _invalid(error: ValidationError) -> InvalidRequest:
    faults = error.errors(include_url=False, include_context=False)
    unknown = [(fault["loc"], f"unknown role {fault['input']!r}") for fault in faults if _is_role(fault["loc"])]
    if unknown:
        return UnknownRole(unknown)
    return InvalidRequest([(fault["loc"], fault["msg"]) for fault in faults])


def _is_role(location: tuple[str | int, ...]) -> bool:
    """`roles.0` or `subtasks.0.role`."""
    return (location[:1] == ("roles",) and len(location) == 2) or location[-1:] == ("role",)
