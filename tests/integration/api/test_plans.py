import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from redis.exceptions import ConnectionError

from fleet.api.services import Services
from fleet.graph import PlanRecord
from fleet.models import Decision, PlanReceipt, PlanRequest, StoredPlan
from fleet.store import Store

PLAN: dict[str, Any] = {"plan_id": "plan-1", "story_id": "story-1", "title": "A login button", "roles": ["DEV", "QA"]}


def plan(**changes: Any) -> dict[str, Any]:
    return {**PLAN, **changes}


def queued(store: Store) -> int:
    return store.statistics.ready(["agents"])["agents"]


def test_a_new_plan_is_accepted_with_a_deliberation_per_role(client: FlaskClient, store: Store) -> None:
    answer = client.post("/v1/plans", json=PLAN)
    assert answer.status_code == 202
    assert answer.headers["Location"] == "/v1/plans/plan-1"
    assert [one["role"] for one in answer.json["deliberations"]] == ["DEV", "QA"]
    assert {one["status"] for one in answer.json["deliberations"]} == {"PENDING"}
    assert queued(store) == 6


def test_the_same_plan_again_gets_the_same_body_and_starts_nothing(client: FlaskClient, store: Store) -> None:
    first = client.post("/v1/plans", json=PLAN)
    again = client.post("/v1/plans", json=plan(approved_by="somebody else", timestamp="2026-01-01T00:00:00Z"))
    assert again.status_code == 200
    assert again.data == first.data
    assert again.headers["Location"] == first.headers["Location"]
    assert queued(store) == 6


@pytest.mark.parametrize("changes", [{"roles": ["DEV"]}, {"title": "Another"}, {"story_id": "story-2"}, {"rounds": 2}])
def test_the_same_id_with_other_content_is_a_conflict_and_changes_nothing(
    client: FlaskClient, changes: dict[str, Any]
) -> None:
    client.post("/v1/plans", json=PLAN)
    before = client.get("/v1/plans/plan-1").data
    assert client.post("/v1/plans", json=plan(**changes)).status_code == 409
    assert client.get("/v1/plans/plan-1").data == before


SUBTASK = {"subtask_id": "a", "title": "A"}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, ["body", "plan_id"]),
        ([], ["body"]),
        (None, ["body"]),
        ("text", ["body"]),
        (plan(plan_id=None), ["body", "plan_id"]),
        (plan(plan_id=7), ["body", "plan_id"]),
        (plan(plan_id=""), ["body", "plan_id"]),
        (plan(plan_id="a/b"), ["body", "plan_id"]),
        (plan(plan_id="a\n"), ["body", "plan_id"]),
        (plan(plan_id="x" * 129), ["body", "plan_id"]),
        (plan(title=""), ["body", "title"]),
        (plan(description=" \n"), ["body", "description"]),
        (plan(description="x" * 20_001), ["body", "description"]),
        (plan(description="a\0b"), ["body", "description"]),
        (plan(surprise=1), ["body", "surprise"]),
        (plan(roles=["PILOT"]), ["body", "roles", 0]),
        (plan(roles="DEV"), ["body", "roles"]),
        (plan(roles=["DEV", "DEV"]), ["body"]),
        (plan(rounds=4), ["body", "rounds"]),
        (plan(rounds=-1), ["body", "rounds"]),
        (plan(rounds=1.5), ["body", "rounds"]),
        (plan(rounds="1"), ["body", "rounds"]),
        (plan(rounds=True), ["body", "rounds"]),
        (plan(rounds=10**29), ["body", "rounds"]),
        (plan(num_agents=0), ["body", "num_agents"]),
        (plan(num_agents=11), ["body", "num_agents"]),
        (plan(timestamp="yesterday"), ["body", "timestamp"]),
        (plan(timestamp=10**29), ["body", "timestamp"]),
        (plan(constraints={"timeout_seconds": 0}), ["body", "constraints", "timeout_seconds"]),
        (plan(constraints={"rubic": "x"}), ["body", "constraints", "rubic"]),
        (plan(subtasks=[SUBTASK, SUBTASK]), ["body"]),
        (plan(subtasks=[{**SUBTASK, "depends_on": ["b"]}]), ["body"]),
        (plan(subtasks=[{**SUBTASK, "depends_on": ["a"]}]), ["body"]),
        (plan(subtasks=[{**SUBTASK, "title": " "}]), ["body", "subtasks", 0, "title"]),
        (plan(subtasks=[SUBTASK] * 101), ["body", "subtasks"]),
        (plan(subtasks=[[]] * 5000), ["body", "subtasks", 0]),
        ({f"field {number}": 1 for number in range(20_000)}, ["body", "plan_id"]),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_refused_with_its_place_and_stores_nothing(
    client: FlaskClient, store: Store, body: Any, place: list[str | int]
) -> None:
    answer = client.post("/v1/plans", data=json.dumps(body), content_type="application/json")
    assert answer.status_code == 422
    assert answer.json["type"] == "/docs#problem-invalid-request"
    assert place in [fault["loc"] for fault in answer.json["errors"]]
    assert len(answer.data) < 20_000
    assert store.client.dbsize() == 0


def test_a_cycle_of_subtasks_is_named(client: FlaskClient) -> None:
    subtasks = [{**SUBTASK, "depends_on": ["b"]}, {"subtask_id": "b", "title": "B", "depends_on": ["a"]}]
    answer = client.post("/v1/plans", json=plan(subtasks=subtasks))
    assert "cyclic dependencies: a -> b -> a" in answer.json["detail"]


def test_dependencies_are_kept_and_noted_as_not_enforced(client: FlaskClient) -> None:
    subtasks = [{**SUBTASK, "role": "DEV"}, {"subtask_id": "b", "title": "B", "role": "QA", "depends_on": ["a"]}]
    answer = client.post("/v1/plans", json=plan(subtasks=subtasks))
    assert [one["task_id"] for one in answer.json["deliberations"]] == ["a", "b"]
    assert "not yet enforced" in answer.json["notes"][0]
    assert client.get("/v1/plans/plan-1").json["plan"]["subtasks"][1]["depends_on"] == ["a"]


def test_an_idempotency_key_stands_for_one_plan(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "key-1"}
    assert [client.post("/v1/plans", json=PLAN, headers=key).status_code for _ in range(2)] == [202, 202]
    other = client.post("/v1/plans", json=plan(plan_id="plan-2"), headers=key)
    assert other.status_code == 422
    assert other.json["type"] == "/docs#problem-idempotency-key-reused"
    assert client.get("/v1/plans/plan-2").status_code == 404


def test_an_idempotency_key_of_a_refused_plan_is_free_again(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "key-1"}
    client.post("/v1/plans", json=PLAN)
    assert client.post("/v1/plans", json=plan(title="Another"), headers=key).status_code == 409
    assert client.post("/v1/plans", json=plan(plan_id="plan-2"), headers=key).status_code == 202


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "schlüssel"])
def test_a_malformed_idempotency_key_is_refused(client: FlaskClient, key: str) -> None:
    answer = client.post("/v1/plans", json=PLAN, headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert answer.json["errors"][0]["loc"] == ["header", "Idempotency-Key"]


def test_a_plan_shows_where_its_deliberations_stand(client: FlaskClient, finish: Callable[[str], Decision]) -> None:
    accepted = client.post("/v1/plans", json=PLAN).json
    finish(accepted["deliberations"][0]["deliberation_id"])
    found = client.get("/v1/plans/plan-1").json
    assert [one["status"] for one in found["deliberations"]] == ["FAILED", "PENDING"]
    assert found["plan"]["title"] == "A login button"


def test_what_is_no_more_in_valkey_is_looked_up_in_the_graph(
    client: FlaskClient, services: Services, finish: Callable[[str], Decision]
) -> None:
    accepted = client.post("/v1/plans", json=plan(roles=["DEV"])).json
    id = accepted["deliberations"][0]["deliberation_id"]
    stored = services.store.submissions.plan("plan-1")
    services.graph.plans["plan-1"] = PlanRecord(plan_id="plan-1", stored=stored, decisions=(finish(id),))
    services.store.client.delete(f"fleet:deliberation:{id}")
    assert "status" not in client.get("/v1/plans").json["items"][0]["deliberations"][0]
    assert client.get("/v1/plans/plan-1").json["deliberations"][0]["status"] == "FAILED"
    services.store.client.flushall()
    assert client.get("/v1/plans/plan-1").json["deliberations"][0]["status"] == "FAILED"
    services.graph.away = True
    assert client.get("/v1/plans/plan-1").status_code == 503


def test_an_unknown_plan_is_not_found(client: FlaskClient) -> None:
    answer = client.get("/v1/plans/nobody")
    assert answer.status_code == 404
    assert answer.json["detail"] == "there is no plan nobody"


def test_a_plan_that_the_broker_does_not_take_is_answered_503_and_accepted_when_sent_again(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(services.dispatcher, "open_step", away)
        answer = client.post("/v1/plans", json=PLAN)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert client.post("/v1/plans", json=PLAN).status_code == 200


def test_pages_hold_every_plan_once_the_newest_first(client: FlaskClient) -> None:
    for number in range(5):
        client.post("/v1/plans", json=plan(plan_id=f"plan-{number}", roles=["DEV"]))
    first = client.get("/v1/plans?limit=2").json
    second = client.get("/v1/plans", query_string={"limit": 2, "cursor": first["next_cursor"]}).json
    third = client.get("/v1/plans", query_string={"limit": 2, "cursor": second["next_cursor"]}).json
    ids = [one["plan_id"] for page in (first, second, third) for one in page["items"]]
    assert ids == [f"plan-{number}" for number in (4, 3, 2, 1, 0)]
    assert "next_cursor" not in third


def test_plans_and_deliberations_are_listed_by_story(client: FlaskClient) -> None:
    for number in range(3):
        client.post("/v1/plans", json={**PLAN, "plan_id": f"plan-{number}", "story_id": f"story-{number % 2}"})
    found = client.get("/v1/plans?story_id=story-0").json["items"]
    assert [one["plan_id"] for one in found] == ["plan-2", "plan-0"]
    deliberations = client.get("/v1/deliberations?story_id=story-1").json["items"]
    assert {one["plan_id"] for one in deliberations} == {"plan-1"}


def test_plans_of_a_story_are_found_among_many_in_few_round_trips(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        handed_in = PlanRequest.model_validate(plan(plan_id=f"plan-{number}", story_id=f"story-{number // 299}"))
        receipt = PlanReceipt(plan_id=handed_in.plan_id, deliberations=())
        store.submissions.add_plan(StoredPlan(plan=handed_in, receipt=receipt, created_at_ms=0), [])
    read = redis.connection.Connection.send_packed_command
    sent: list[Any] = []

    def count(self: "redis.connection.Connection", *args: Any, **options: Any) -> Any:
        sent.append(args)
        return read(self, *args, **options)

    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", count)
    found = client.get("/v1/plans?story_id=story-1").json["items"]
    assert [one["plan_id"] for one in found] == ["plan-299"]
    assert len(sent) < 50
