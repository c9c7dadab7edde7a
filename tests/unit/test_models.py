"""What a plan may say."""

from typing import Any

import pytest
from pydantic import ValidationError

from fleet.models import Answer, Council, DeliberationRequest, Failure, PlanRequest, Role, derive_id, find_cycle


def plan(**changes: Any) -> dict[str, Any]:
    return {"plan_id": "p1", "story_id": "s1", "description": "Do it", **changes}


def subtask(id: str, *depends_on: str, **changes: Any) -> dict[str, Any]:
    return {"subtask_id": id, "title": f"Title of {id}", "role": "DEV", "depends_on": list(depends_on), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"description": "  "}, "must not be empty"),
        ({"description": "x" * 20_001}, "at most 20000"),
        ({"description": "a\0b"}, "must not contain NUL"),
        ({"constraints": {"rubric": "a\0b"}}, "must not contain NUL"),
        ({"plan_id": "../etc"}, "pattern"),
        ({"plan_id": ""}, "pattern"),
        ({"plan_id": "p" * 129}, "pattern"),
        ({"roles": ["WIZARD"]}, "'DEV', 'QA'"),
        ({"roles": ["DEV", "DEV"]}, "roles must not repeat"),
        ({"rounds": 4}, "less than or equal to 3"),
        ({"rounds": -1}, "greater than or equal to 0"),
        ({"rounds": "1"}, "valid integer"),
        ({"rounds": True}, "valid integer"),
        ({"num_agents": 0}, "greater than or equal to 1"),
        ({"num_agents": 11}, "less than or equal to 10"),
        ({"rounds": 1.5}, "valid integer"),
        ({"timestamp": 1763719200}, "must be a text"),
        ({"unknown": 1}, "Extra inputs"),
        ({"subtasks": [subtask("a"), subtask("a")]}, "duplicate subtask_id: a"),
        ({"subtasks": [subtask("a", "b")]}, "unknown subtasks: b"),
        ({"subtasks": [subtask("a", "b"), subtask("b", "c"), subtask("c", "a")]}, "cyclic dependencies"),
        ({"subtasks": [subtask("a", "a")]}, "cyclic dependencies: a -> a"),
        ({"subtasks": [subtask("a", title=" ")]}, "must not be empty"),
        ({"constraints": {"timeout_seconds": 0}}, "greater than or equal to 1"),
        ({"constraints": {"rubrik": "x"}}, "Extra inputs"),
    ],
)
def test_a_bad_plan_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PlanRequest.model_validate(plan(**changes))
    assert message in str(caught.value)


def test_a_whole_number_may_be_written_with_a_point() -> None:
    made = PlanRequest.model_validate(plan(rounds=2.0, num_agents=3.0, constraints={"timeout_seconds": 60.0}))
    assert (made.rounds, made.num_agents, made.constraints.timeout_seconds) == (2, 3, 60)
    assert all(type(number) is int for number in (made.rounds, made.num_agents, made.constraints.timeout_seconds))


@pytest.mark.parametrize(
    ("said", "kept"), [("a\ud800b", "a\ufffdb"), ("\udc00", "\ufffd"), ("\U0001f600\0", "\U0001f600\0")]
)
def test_what_a_model_said_can_be_stored_whatever_it_was(said: str, kept: str) -> None:
    given = Answer(
        agent_id="a",
        step="propose:0",
        failure=Failure(type="not_json", message=said, raw=said),
        reasoning=said,
        model=said,
        created_at_ms=1,
    )
    again = Answer.model_validate_json(given.dump())
    assert again.failure is not None
    assert [again.failure.message, again.failure.raw, again.reasoning, again.model] == [kept] * 4


def test_an_event_may_have_fields_that_nobody_knows() -> None:
    made = PlanRequest.model_validate(plan(new=1, subtasks=[subtask("a", newer=2)]), extra="ignore")
    assert made.subtasks[0].subtask_id == "a"


def test_what_is_left_to_its_default_does_not_change_the_digest() -> None:
    explicit = plan(constraints={"requirements": []}, roles=[], timestamp="2026-01-01T00:00:00Z", approved_by="me")
    assert PlanRequest.model_validate(plan()).digest() == PlanRequest.model_validate(explicit).digest()


def test_other_content_changes_the_digest() -> None:
    digests = {PlanRequest.model_validate(plan(**change)).digest() for change in ({}, {"rounds": 1}, {"roles": ["QA"]})}
    assert len(digests) == 3


def test_an_empty_task_is_refused() -> None:
    with pytest.raises(ValidationError, match="must not be empty"):
        DeliberationRequest.model_validate({"task_description": "\n", "role": "DEV"})


def test_derived_ids_tell_parts_apart_whatever_they_contain() -> None:
    assert derive_id("a", "b") == derive_id("a", "b")
    assert len({derive_id("a", "b"), derive_id("a.b"), derive_id("a", None), derive_id("a", "None")}) == 4


def test_agents_are_named_by_role_and_number() -> None:
    council = Council.of(Role.DEVOPS, 3, None, "scripted")
    assert council.council_id == "council-devops"
    assert [agent.agent_id for agent in council.agents] == [f"agent-devops-00{number}" for number in (1, 2, 3)]


def test_a_graph_without_a_cycle_has_none() -> None:
    assert find_cycle({"a": ["b", "c"], "b": ["c"], "c": []}) is None
