"""From what the header tasks reported to what the body is called with; no I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from celery import states
from celery.backends.base import _create_chord_error_with_cause

#: What stands for a part that never came, in a chord with `chord_partial`.
MISSING = "MISSING"


@dataclass(frozen=True)
class Part:
    """One header task's outcome; `index` is its place in the header, infinite if Celery gave none."""

    index: float
    task_id: str
    state: str
    result: Any

    @property
    def failed(self) -> bool:
        return self.state in states.PROPAGATE_STATES


def part_field(index: float | None, task_id: str) -> str:
    """A part's field. The index belongs to it, since two entries of a header may share a frozen task's id."""
    return f"{'inf' if index is None else index}:{task_id}"


def parse_part(field: str, payload: Any, to_exception: Callable[[Any], BaseException]) -> Part:
    index, _, task_id = field.partition(":")
    _, _, state, result = payload
    if state in states.EXCEPTION_STATES:
        result = to_exception(result)
    return Part(float(index), task_id, state, result)


def results(parts: list[Part], tree: list[Any] | None) -> list[Any]:
    """The header's results in order, nested as the header was.

    Raises:
        ChordError: a header task failed or was revoked; its cause is that task's exception.
    """
    ordered = sorted(parts, key=lambda part: (part.index, part.task_id))
    for part in ordered:
        if part.failed:
            raise _create_chord_error_with_cause(
                f"Dependency {part.task_id} raised {part.result!r}", original_exc=part.result
            )
    if tree is None:
        return [part.result for part in ordered]
    by_id = {part.task_id: part for part in parts}
    return [_nested(node, lambda task_id: by_id[task_id].result) for node in tree]


def partial_results(parts: list[Part], tree: list[Any] | None, size: int) -> list[Any]:
    """The header's entries in order as dictionaries, `size` of them unless the header is nested."""
    if tree is not None:
        by_id = {part.task_id: part for part in parts}
        return [_nested(node, lambda task_id: _entry(by_id.get(task_id))) for node in tree]
    seen = {part.index for part in parts}
    absent = [(float(index), None) for index in range(size) if index not in seen]
    absent = absent[: max(0, size - len(parts))]
    present = [(part.index, part) for part in sorted(parts, key=lambda part: part.task_id)]
    return [_entry(part) for _, part in sorted([*present, *absent], key=lambda pair: pair[0])]


def _entry(part: Part | None) -> Mapping[str, Any]:
    if part is None:
        return _failure(MISSING, "ChordError", "no result before the chord's deadline")
    if part.failed:
        return _failure(states.FAILURE, type(part.result).__name__, str(part.result))
    return {"state": states.SUCCESS, "result": part.result}


def _failure(state: str, name: str, message: str) -> Mapping[str, Any]:
    return {"state": state, "error": {"type": name, "message": message}}


def _nested(node: Any, value: Callable[[str], Any]) -> Any:
    return value(node) if isinstance(node, str) else [_nested(child, value) for child in node]
