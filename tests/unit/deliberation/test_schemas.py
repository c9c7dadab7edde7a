import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleet.deliberation import schemas

SIZES = (600, 1_000, 1_800, 6_000, 20_000, 60_000)


def largest(schema: dict[str, Any], character: str = "x") -> Any:
    """The largest instance of a schema."""
    match schema.get("type"):
        case "object":
            return {name: largest(part, character) for name, part in schema["properties"].items()}
        case "array":
            items = schema.get("prefixItems") or [schema["items"]] * schema["maxItems"]
            return [largest(part, character) for part in items]
        case "string":
            return character * schema["maxLength"]
        case "integer":
            return schema["maximum"]
    return max(schema["enum"], key=len)


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


def parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    below = list(schema.get("properties", {}).values()) + schema.get("prefixItems", [])
    below += [schema["items"]] if "items" in schema else []
    return [schema, *(part for child in below for part in parts(child))]


ALL = [
    *(schemas.proposal_schema(size) for size in SIZES),
    *(schemas.review_schema("ABCDEFGHI"[:count], 1_800) for count in range(1, 10)),
    *(schemas.ballot_schema("ABCDEFGHI"[:count]) for count in range(1, 10)),
]


@pytest.mark.parametrize("size", SIZES)
def test_the_texts_of_the_largest_proposal_fit_the_characters(size: int) -> None:
    schema = schemas.proposal_schema(size)
    value = largest(schema)
    Draft202012Validator(schema).validate(value)
    assert 0.6 * size < len("".join(texts(value))) <= size


@pytest.mark.parametrize("schema", ALL)
def test_every_part_of_a_schema_is_bounded(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    for part in parts(schema):
        bounds = {
            "object": {"properties", "required", "additionalProperties"},
            "array": {"minItems", "maxItems"},
            "string": {"minLength", "maxLength"},
            "integer": {"minimum", "maximum"},
        }
        assert part.get("enum") or bounds[part["type"]] <= part.keys()
        if part.get("type") == "object":
            assert part["additionalProperties"] is False
            assert part["required"] == list(part["properties"])


@pytest.mark.parametrize("schema", ALL)
def test_no_schema_uses_what_a_grammar_engine_cannot_enforce(schema: dict[str, Any]) -> None:
    known = {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems"}
    known |= {"minLength", "maxLength", "enum", "minimum", "maximum"}
    for part in parts(schema):
        assert part.keys() <= known
        assert not {"items", "prefixItems"} <= part.keys()


@pytest.mark.parametrize("schema", ALL)
def test_the_token_limit_holds_the_largest_answer_at_one_token_per_character(schema: dict[str, Any]) -> None:
    plain = len(json.dumps(largest(schema)))
    assert plain <= schemas.max_tokens(schema) < 1.3 * plain + 60
    a_quarter_escaped = json.dumps(largest(schema)).replace("xxxx", "xxx\\n")
    assert len(a_quarter_escaped) <= schemas.max_tokens(schema)


def test_a_small_model_is_asked_for_one_file_and_four_steps_and_more_room_means_more_files() -> None:
    def count(size: int, name: str) -> int:
        return int(schemas.proposal_schema(size)["properties"][name]["maxItems"])

    assert (count(1_800, "artifacts"), count(1_800, "steps")) == (1, 4)
    files = [count(size, "artifacts") for size in SIZES]
    assert files == sorted(files)
    assert files[-1] == 8


@pytest.mark.parametrize("size", [599, 60_001])
def test_a_proposal_out_of_bounds_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="600 to 60000"):
        schemas.proposal_schema(size)


def test_up_to_four_candidates_every_order_is_listed_and_above_it_is_an_array_of_labels() -> None:
    four = schemas.ballot_schema("ABCD")["properties"]["ranking"]["enum"]
    assert len(four) == len(set(four)) == 24
    assert "D>A>C>B" in four
    five = schemas.ballot_schema("ABCDE")["properties"]["ranking"]
    assert (five["items"]["enum"], five["minItems"], five["maxItems"]) == (list("ABCDE"), 5, 5)


def test_a_review_has_exactly_one_critique_per_label() -> None:
    schema = schemas.review_schema("AB", 1_800)
    value = largest(schema)
    assert [critique["label"] for critique in value["critiques"]] == ["A", "B"]
    for wrong in (["A", "A"], ["A"], ["A", "B", "B"]):
        critiques = [{**value["critiques"][0], "label": label} for label in wrong]
        assert not Draft202012Validator(schema).is_valid({**value, "critiques": critiques})
    assert len("".join(texts(value["critiques"]))) <= 1_800
