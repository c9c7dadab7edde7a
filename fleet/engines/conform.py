"""Fits a wished value to a JSON schema: what comes back is valid, and as near to the wish as the schema lets it be."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]
Pick = Callable[[Sequence[Any], str], Any]

# Keywords that narrow a value and are not honoured here: answering them by luck would hide a wrong answer.
_UNSUPPORTED = ("pattern", "not", "if", "multipleOf", "contains", "patternProperties", "dependentRequired")


@dataclass(frozen=True, slots=True)
class Share:
    """A wish for a number: this share (0 to 1) of the way from the schema's lowest to its highest value."""

    of_range: float


class UnsupportedSchema(ValueError):
    """The schema uses a keyword that cannot be honoured."""


def conform(schema: Schema, wish: Any, pick: Pick) -> Any:
    """A value valid for `schema`. A `wish` of None means no wish: every property is then filled.

    `pick(options, path)` chooses where nothing was wished. Known keywords: type, properties, required, minProperties
    (by properties alone), items, prefixItems, minItems, maxItems, uniqueItems, minLength, maxLength, enum, const, the
    four integer and number bounds, anyOf, oneOf, allOf and local $ref.

    Raises:
        UnsupportedSchema: another narrowing keyword, or bounds that contradict each other.
    """
    return _Conformer(schema, pick).value(schema, wish, "")


class _Conformer:
    def __init__(self, root: Schema, pick: Pick):
        self.root, self.pick = root, pick

    def value(self, schema: Schema, wish: Any, path: str) -> Any:
        schema = self._resolved(schema, wish)
        for keyword in _UNSUPPORTED:
            if keyword in schema:
                raise UnsupportedSchema(f"{path or 'schema'}: {keyword} is not supported")
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            options = schema["enum"]
            return wish if wish in options else self.pick(options, path)
        return self._of_type(_type(schema, wish), schema, wish, path)

    def _resolved(self, schema: Schema, wish: Any) -> Schema:
        while any(keyword in schema for keyword in ("$ref", "allOf", "anyOf", "oneOf")):
            schema = dict(schema)
            if "$ref" in schema:
                schema = {**self._target(schema.pop("$ref")), **schema}
            for part in schema.pop("allOf", []):
                schema = _merged(schema, part)
            for keyword in ("anyOf", "oneOf"):
                if options := schema.pop(keyword, None):
                    schema = _merged(schema, self._option(options, wish))
        return schema

    def _target(self, reference: str) -> Schema:
        if not reference.startswith("#"):
            raise UnsupportedSchema(f"only local references are supported, not {reference!r}")
        node: Any = self.root
        for step in filter(None, reference[1:].split("/")):
            node = node[step.replace("~1", "/").replace("~0", "~")]
        return dict(node)

    def _option(self, options: list[Schema], wish: Any) -> Schema:
        resolved = [self._resolved(option, wish) for option in options]
        fitting = [option for option in resolved if wish is not None and _type(option, wish) == _type_of(wish)]
        return (fitting or [option for option in resolved if option.get("type") != "null"] or resolved)[0]

    def _of_type(self, kind: str, schema: Schema, wish: Any, path: str) -> Any:
        match kind:
            case "object":
                return self._object(schema, wish if isinstance(wish, dict) else None, path)
            case "array":
                return self._array(schema, wish if isinstance(wish, list) else [], path)
            case "string":
                return _string(schema, wish if isinstance(wish, str) else self.pick(_WORDS, path), path)
            case "integer" | "number":
                return _number(schema, kind, wish, path)
            case "boolean":
                return wish if isinstance(wish, bool) else self.pick([True, False], path)
            case "null":
                return None
        raise UnsupportedSchema(f"{path or 'schema'}: unknown type {kind!r}")

    def _object(self, schema: Schema, wish: dict[str, Any] | None, path: str) -> dict[str, Any]:
        properties: dict[str, Schema] = schema.get("properties", {})
        required = schema.get("required", [])
        wanted = [name for name in properties if wish is None or name in required or name in wish]
        wanted += [name for name in required if name not in properties]
        answer = {
            name: self.value(properties.get(name, {"type": "string"}), (wish or {}).get(name), f"{path}.{name}")
            for name in wanted
        }
        if len(answer) < schema.get("minProperties", 0):
            raise UnsupportedSchema(f"{path or 'schema'}: minProperties beyond the named properties")
        return answer

    def _array(self, schema: Schema, wish: list[Any], path: str) -> list[Any]:
        prefix: list[Schema] = schema.get("prefixItems", [])
        items = schema.get("items", {"type": "string"})
        least = schema.get("minItems", 0)
        size = max(least, min(len(wish), schema.get("maxItems", len(wish))))
        unique = schema.get("uniqueItems", False)
        answer: list[Any] = []
        for index in range(size):
            part = prefix[index] if index < len(prefix) else items
            if not isinstance(part, dict):
                break
            item = self.value(part, wish[index] if index < len(wish) else None, f"{path}[{index}]")
            if unique and item in answer:
                item = self._another(part, answer, f"{path}[{index}]")
            answer.append(item)
        if len(answer) < least:
            raise UnsupportedSchema(f"{path or 'schema'}: cannot fill {least} items")
        return answer

    def _another(self, schema: Schema, taken: list[Any], path: str) -> Any:
        options = self._resolved(schema, None).get("enum") or [f"{word} {len(taken)}" for word in _WORDS]
        left = [option for option in options if option not in taken]
        if not left:
            raise UnsupportedSchema(f"{path}: not enough different items")
        return self.value(schema, left[0], path)


_WORDS = ("plan", "check", "review", "measure", "deliver")


def _type(schema: Schema, wish: Any) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        wished = _type_of(wish)
        return wished if wished in kind else next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind
    if "properties" in schema or not schema:
        return "object" if "properties" in schema else "string"
    return "array" if "items" in schema or "prefixItems" in schema else "string"


def _type_of(wish: Any) -> str:
    for kind, types in (("boolean", bool), ("integer", int), ("number", float), ("string", str)):
        if isinstance(wish, types):
            return kind
    if isinstance(wish, Share):
        return "integer"
    return "object" if isinstance(wish, dict) else "array" if isinstance(wish, list) else "null"


def _merged(schema: Schema, part: Schema) -> Schema:
    return {
        **part,
        **schema,
        "properties": {**part.get("properties", {}), **schema.get("properties", {})},
        "required": [*part.get("required", []), *schema.get("required", [])],
    } if "properties" in part or "properties" in schema else {**part, **schema}  # fmt: skip


def _string(schema: Schema, wish: str, path: str) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength", max(len(wish), schema.get("minLength", 0)))
    if least > most:
        raise UnsupportedSchema(f"{path or 'schema'}: minLength {least} is above maxLength {most}")
    text = wish[:most]
    while len(text) < least:
        text = f"{text} {wish or 'text'}"[:most]
    return text


def _number(schema: Schema, kind: str, wish: Any, path: str) -> int | float:
    step = 1 if kind == "integer" else 1e-6
    low = max(
        (schema[k] + extra for k, extra in (("minimum", 0), ("exclusiveMinimum", step)) if k in schema), default=0
    )
    highest = low + (100 if kind == "integer" else 1)
    high = min(
        (schema[k] - extra for k, extra in (("maximum", 0), ("exclusiveMaximum", step)) if k in schema), default=highest
    )
    if "minimum" not in schema and "exclusiveMinimum" not in schema:
        low = min(low, high)
    if low > high:
        raise UnsupportedSchema(f"{path or 'schema'}: no number between {low} and {high}")
    if isinstance(wish, (int, float)) and not isinstance(wish, bool):
        value: int | float = min(max(wish, low), high)
    else:
        share = wish.of_range if isinstance(wish, Share) else 0.5
        value = low + (high - low) * share
    if kind == "integer":
        return min(max(round(value), math.ceil(low)), math.floor(high))
    return min(max(round(float(value), 6), low), high)
