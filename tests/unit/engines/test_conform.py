from collections.abc import Sequence
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleet.engines.conform import Share, UnsupportedSchema, conform

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "string", "minLength": 50, "maxLength": 60}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a", "unnamed"]},
    {"type": "array", "items": {"type": "integer", "minimum": 3, "maximum": 4}, "minItems": 5, "maxItems": 5},
    {"type": "array", "items": {"enum": ["x", "y", "z"]}, "minItems": 3, "uniqueItems": True},
    {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 4, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"const": "one"}, {"type": "boolean"}], "items": {"type": "null"}, "minItems": 3},
    {"type": "array", "items": {"type": "string"}, "maxItems": 0},
    {"enum": ["A>B", "B>A"]},
    {"const": {"fixed": [1, 2]}},
    {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 6},
    {"type": "integer", "maximum": -5},
    {"type": "integer", "minimum": 1000},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    {"type": "number", "minimum": 0.1234567, "maximum": 0.1234568},
    {"type": ["string", "null"], "maxLength": 1},
    {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}]},
    {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}]},
    {"allOf": [{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
               {"properties": {"b": {"const": 2}}, "required": ["b"]}]},
    {"$defs": {"leaf": {"type": "string", "maxLength": 5}}, "type": "object", "additionalProperties": False,
     "properties": {"all": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "minItems": 2}}, "required": ["all"]},
]  # fmt: skip
WISHES = [None, "a wish", "", 7, -1e9, 2.5, True, [], ["x", "x", 3], {"a": "b", "n": "c"}, {"more": 1}, Share(0.9)]


def first(options: Sequence[Any], path: str) -> Any:  # noqa: ARG001 - the shape of a pick
    return options[0]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_whatever_is_wished_the_value_is_valid(schema: dict[str, Any]) -> None:
    for wish in WISHES:
        Draft202012Validator(schema).validate(conform(schema, wish, first))


def test_a_wish_that_the_schema_allows_is_kept() -> None:
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "maxLength": 20},
            "size": {"type": "integer", "minimum": 0, "maximum": 10},
            "order": {"enum": ["A", "B"]},
            "parts": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        },
    }
    wish = {"text": "kept", "size": 7, "order": "B", "parts": ["one", "two"]}
    assert conform(schema, wish, first) == wish


def test_a_share_is_that_part_of_the_range() -> None:
    assert conform({"type": "integer", "minimum": 0, "maximum": 200}, Share(0.25), first) == 50
    assert conform({"type": "integer", "minimum": 1, "maximum": 5}, Share(1.0), first) == 5
    assert conform({"type": "number", "minimum": 0, "maximum": 1}, Share(0.25), first) == 0.25


def test_an_optional_property_that_was_not_wished_is_left_out() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]}
    assert conform(schema, {"a": "x"}, first) == {"a": "x"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^x"},
        {"type": "integer", "multipleOf": 7},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "string", "minLength": 5, "maxLength": 4},
        {"type": "array", "items": {"enum": ["x"]}, "minItems": 2, "uniqueItems": True},
        {"type": "object", "properties": {}, "minProperties": 1},
        {"type": "gadget"},
        {"$ref": "other.json"},
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_and_not_answered_by_luck(schema: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedSchema):
        conform(schema, None, first)
