"""JSON schemas of what agents answer. They keep to what llama.cpp's grammars and xgrammar both enforce.

Every string, array and number is bounded, since a model that degenerates stops only at a bound. No `uniqueItems`
(xgrammar rejects it), and no `items` beside `prefixItems` (llama.cpp then reads `items` alone).
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]

LANGUAGES = (
    "python", "javascript", "typescript", "go", "rust", "java", "c", "cpp", "csharp", "ruby", "sql", "bash", "html",
    "css", "json", "yaml", "toml", "dockerfile", "terraform", "markdown", "text",
)  # fmt: skip
MOST_ORDERS = 4  # candidates whose orders are all listed: 24; five would be 120
_ESCAPING = 1.25  # a quarter of the characters escaped, as newlines and quotes in code
_ENDING = 16  # tokens that end a turn


def proposal_schema(chars: int) -> Schema:
    """The schema of a proposal whose texts have at most `chars` characters (600 to 60,000) in all.

    More characters mean more and longer artifacts, steps and risks: 1 artifact and 4 steps at 1,800, 3 and 7 at 6,000.

    Raises:
        ValueError: `chars` is out of bounds.
    """
    if not 600 <= chars <= 60_000:
        raise ValueError(f"chars must be 600 to 60000, not {chars}")
    steps, risks = _within(3 + chars // 1500, 3, 10), _within(1 + chars // 1500, 1, 5)
    head: Schema = {
        "summary": _string(_within(chars // 10, 60, 600), 20),
        "approach": _string(_within(chars * 3 // 20, 90, 2_000), 20),
        "steps": _array(_string(_within(chars // 5 // steps, 40, 400), 5), 1, steps),
    }
    tail: Schema = {
        "risks": _array(_string(_within(chars // 10 // risks, 40, 300), 5), 0, risks),
        "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
    }
    files = _within(chars // 2000, 1, 8)
    room = chars - sum(map(text_size, [*head.values(), *tail.values()]))
    return _object({**head, "artifacts": _array(_artifact(room // files), 0, files), **tail})


def review_schema(labels: Sequence[str], chars: int) -> Schema:
    """The schema of a review: one critique per label, in the labels' order, then the ranking of them all.

    The texts have at most `chars` characters in all, and at least 40 each.
    """
    size = _within((chars - len(labels)) // (3 * len(labels)), 40, 400)
    critiques = [
        _object({"label": {"enum": [label]}, "strength": _string(size), "flaw": _string(size), "fix": _string(size)})
        for label in labels
    ]
    each = {"type": "array", "prefixItems": critiques, "minItems": len(labels), "maxItems": len(labels)}
    return _object({"critiques": each, "ranking": _ranking(labels)})


def ballot_schema(labels: Sequence[str]) -> Schema:
    """The schema of a vote: the ranking of all labels, best first."""
    return _object({"ranking": _ranking(labels)})


def max_tokens(schema: Schema) -> int:
    """Tokens that hold the schema's largest instance at one token per character, a quarter of them escaped.

    A model that degenerates (into digits, say) does need one token per character.
    """
    return _size(schema) + _ENDING


def text_size(schema: Schema) -> int:
    """The most characters the strings in a value of this schema have together."""
    match schema.get("type"):
        case "object":
            return sum(map(text_size, schema["properties"].values()))
        case "array":
            return sum(map(text_size, _items(schema)))
        case "string" if "maxLength" in schema:
            return int(schema["maxLength"])
    return max((len(option) for option in schema.get("enum", [])), default=0)


def _ranking(labels: Sequence[str]) -> Schema:
    # Small models keep to one enum of all orders; given an array they repeat and leave out labels.
    if len(labels) <= MOST_ORDERS:
        return {"enum": [">".join(order) for order in itertools.permutations(labels)]}
    return _array({"enum": list(labels)}, len(labels), len(labels))


def _artifact(room: int) -> Schema:
    path = _within(room // 8, 40, 120)
    content = room - path - max(map(len, LANGUAGES))
    return _object({"path": _string(path, 1), "language": {"enum": list(LANGUAGES)}, "content": _string(content, 1)})


def _object(properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _array(items: Schema, least: int, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _string(longest: int, shortest: int = 0) -> Schema:
    # Without a shortest length SmolLM2-135M left texts empty or at "..." in 5 to 7 of 18 proposals, with it in 1.
    return {"type": "string", "minLength": shortest, "maxLength": longest}


def _within(value: int, least: int, most: int) -> int:
    return max(least, min(value, most))


def _items(schema: Schema) -> list[Schema]:
    """The schema of every item an array may have."""
    return schema.get("prefixItems") or [schema["items"]] * schema["maxItems"]


def _size(schema: Schema) -> int:
    """Characters of the largest instance as JSON with a space after every colon and comma."""
    match schema.get("type"):
        case "object":
            return 2 + sum(len(json.dumps(name)) + 4 + _size(part) for name, part in schema["properties"].items())
        case "array":
            return 2 + sum(2 + _size(part) for part in _items(schema))
        case "integer":
            return max(len(str(schema["minimum"])), len(str(schema["maximum"])))
        case "string" if "maxLength" in schema:
            return 2 + int(schema["maxLength"] * _ESCAPING)
    return max(len(json.dumps(option)) for option in schema["enum"])
