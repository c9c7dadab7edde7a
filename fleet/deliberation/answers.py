"""From what a model wrote to a checked answer."""

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonschema import Draft202012Validator

from fleet.errors import Unreadable

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A\s*```[\w-]*[ \t]*\n(.*)\n[ \t]*```\s*\Z", re.DOTALL)


def read(text: str, finish_reason: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON object in `text`, valid for `schema`.

    Left away are a leading `<think>` block and a markdown fence around the whole; anything else beside the object makes
    the answer unreadable. An answer that the token limit cut right after its end is whole.

    Raises:
        Unreadable: of type "truncated" (no JSON, and `finish_reason` is "length"), "not_json" or "schema".
    """
    text = _THOUGHT.sub("", text, count=1)
    if fenced := _FENCE.match(text):
        text = fenced[1]
    content = _parse(text, finish_reason)
    if error := next(Draft202012Validator(schema).iter_errors(content), None):
        # The message quotes the value, which may be long.
        raise Unreadable("schema", f"{error.json_path}: {_shortened(error.message)}")
    if not isinstance(content, dict):
        raise Unreadable("schema", f"not an object but {type(content).__name__}")
    return content


def read_ranking(content: dict[str, Any], labels: Sequence[str]) -> tuple[str, ...]:
    """All labels, best first, from `content["ranking"]`: an order such as "B>A>C" or an array of labels.

    Raises:
        Unreadable: of type "schema", when there is no ranking or it has not every label exactly once.
    """
    ranking = content.get("ranking")
    given = ranking.split(">") if isinstance(ranking, str) else ranking
    if not isinstance(given, list) or not all(isinstance(label, str) for label in given):
        raise Unreadable("schema", "there is no ranking")
    order = tuple(label.strip() for label in given)
    faults = {
        "unknown": [label for label in order if label not in labels],
        "repeated": [label for label in order if order.count(label) > 1],
        "missing": [label for label in labels if label not in order],
    }
    if found := [f"{fault} {_shortened(', '.join(sorted(set(which))))}" for fault, which in faults.items() if which]:
        raise Unreadable("schema", f"the ranking is not an order of {', '.join(labels)}: {'; '.join(found)}")
    return order


def _parse(text: str, finish_reason: str) -> Any:
    try:
        content = json.loads(text, parse_constant=_refuse, object_pairs_hook=_without_repetition)
        # A lone surrogate is legal in JSON, but nothing can store it as UTF-8.
        json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        if finish_reason == "length":
            raise Unreadable("truncated", f"cut at the token limit after {len(text)} characters") from None
        raise Unreadable("not_json", _shortened(str(error))) from None
    return content


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name occurs twice in one object")
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _shortened(text: str, longest: int = 300) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
