"""Dead letters replayed and discarded, on a real ValKey and a real Neo4j."""

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from fleet.api.services import Services
from fleet.graph import Graph
from fleet.models import DeadLetter, Decision, Role, Status, Task
from fleet.store import Store
from tests.harness import Neo4jServer

APPROVED, TRANSITIONED = "planning.plan.approved", "planning.story.transitioned"


@pytest.fixture(scope="module")
def graph(neo4j_server: Neo4jServer) -> Iterator[Graph]:
    with Graph(neo4j_server.uri, neo4j_server.user, neo4j_server.password) as graph:
        graph.ensure_schema()
        yield graph


@pytest.fixture
def keep(store: Store) -> Callable[[str, Any], DeadLetter]:
    """Keeps a message as a dead letter."""

    def add(source: str, message: Any) -> DeadLetter:
        return store.dead_letters.add(source, "why", message if isinstance(message, str) else json.dumps(message))

    return add


Keep = Callable[[str, Any], DeadLetter]


def plan(**fields: Any) -> dict[str, Any]:
    id = uuid.uuid4().hex[:8]
    found = {"plan_id": f"p-{id}", "story_id": f"s-{id}", "approved_by": "po", "timestamp": "2026-01-01T00:00:00Z"}
    return {**found, "roles": ["DEV"], **fields}


def task(**fields: Any) -> Task:
    id = str(uuid.uuid4())
    found = {"deliberation_id": id, "role": Role.DEV, "task_id": id, "task_description": "Write it"}
    return Task(**{**found, "agents": ("agent-dev-001",), "timeout_ms": 1000, "created_at_ms": 1, **fields})


def decision(about: Task, reason: str = "no quorum") -> Decision:
    return Decision(
        deliberation_id=about.deliberation_id, task=about, status=Status.FAILED, reason=reason, decided_at_ms=2
    )


def replay(client: FlaskClient, letter: DeadLetter) -> Any:
    return client.post(f"/v1/deadletters/{letter.dead_letter_id}/replay")


def assert_gone(client: FlaskClient, store: Store, letter: DeadLetter) -> None:
    assert client.get(f"/v1/deadletters/{letter.dead_letter_id}").status_code == 404
    assert client.get("/v1/deadletters").json["items"] == []
    assert not store.client.keys("fleet:deadletter*")


def assert_stays(client: FlaskClient, letter: DeadLetter) -> None:
    assert client.get(f"/v1/deadletters/{letter.dead_letter_id}").json["payload"] == letter.payload
    assert [one["dead_letter_id"] for one in client.get("/v1/deadletters").json["items"]] == [letter.dead_letter_id]


def test_a_replayed_plan_is_accepted_and_its_letter_is_gone(client: FlaskClient, store: Store, keep: Keep) -> None:
    message = plan(unknown="field")
    letter = keep(APPROVED, message)
    answer = replay(client, letter)
    assert answer.status_code == 202
    location = f"/v1/plans/{message['plan_id']}"
    assert answer.json == {"kind": "plan", "id": message["plan_id"], "location": location}
    assert answer.headers["Location"] == location
    [one] = client.get(location).json["deliberations"]
    assert (one["role"], one["status"]) == ("DEV", "PENDING")
    assert_gone(client, store, letter)


def test_a_letter_replayed_by_many_at_once_is_done_once(
    app: Flask, client: FlaskClient, store: Store, keep: Keep
) -> None:
    about = task()
    letter = keep("council", about.dump())

    def send(_: int) -> Any:
        own = app.test_client()
        own.environ_base.update(client.environ_base)
        return replay(own, letter)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(6)))
    done = [answer.json for answer in answers if answer.status_code == 202]
    assert {answer.status_code for answer in answers} <= {202, 404}
    assert done
    assert all(one == done[0] for one in done)
    assert [one["deliberation_id"] for one in client.get("/v1/deliberations").json["items"]] == [done[0]["id"]]
    assert client.get("/v1/stats").json["totals"]["accepted"] == 1
    assert_gone(client, store, letter)
    assert replay(client, letter).status_code == 404


def test_a_task_that_could_not_be_decided_on_is_deliberated_anew(client: FlaskClient, store: Store, keep: Keep) -> None:
    about = task()
    letter = keep("council", about.dump())
    answer = replay(client, letter)
    assert (answer.status_code, answer.json["kind"]) == (202, "deliberation")
    found = client.get(answer.headers["Location"]).json
    assert (found["deliberation_id"], found["replay_of"]) == (answer.json["id"], about.deliberation_id)
    assert (found["task_description"], found["status"]) == ("Write it", "PENDING")
    assert_gone(client, store, letter)


def test_a_decision_that_was_not_recorded_is_written_to_the_graph(
    client: FlaskClient, store: Store, graph: Graph, keep: Keep
) -> None:
    made = decision(task())
    letter = keep("council", made.dump())
    answer = replay(client, letter)
    location = f"/v1/deliberations/{made.deliberation_id}"
    assert answer.json == {"kind": "deliberation", "id": made.deliberation_id, "location": location}
    assert graph.decision(made.deliberation_id) == made
    assert_gone(client, store, letter)


def test_a_replayed_transition_is_in_the_graph_once(
    client: FlaskClient, store: Store, graph: Graph, keep: Keep
) -> None:
    story = f"s-{uuid.uuid4()}"
    message = {"story_id": story, "from_phase": "DESIGN", "to_phase": "BUILD", "timestamp": "2026-01-01T00:00:00"}
    ids = []
    for spelling in (json.dumps(message), json.dumps({**message, "unknown": 1})):
        letter = keep(TRANSITIONED, spelling)
        answer = replay(client, letter)
        assert (answer.status_code, answer.json["kind"]) == (202, "transition")
        ids.append(answer.json["id"])
        assert_gone(client, store, letter)
    assert ids[0] == ids[1]
    assert [one.to_phase for one in graph.transitions(story)] == ["BUILD"]


@pytest.mark.parametrize(
    ("source", "message", "place", "reason"),
    [
        (APPROVED, "{", ["payload"], "JSON"),
        (APPROVED, plan(roles=["WIZARD"]), ["payload", "roles", 0], "unknown role 'WIZARD'"),
        (APPROVED, plan(timestamp=None), ["payload", "timestamp"], "required"),
        (TRANSITIONED, {"story_id": "s"}, ["payload", "from_phase"], "required"),
        ("council", {"decided_at_ms": 1}, ["payload", "deliberation_id"], "required"),
        ("council", {"reason": "neither"}, ["payload", "deliberation_id"], "required"),
        ("relay", "{}", ["payload"], "what comes from relay can only be discarded"),
    ],
)
def test_what_can_still_not_be_processed_says_why_and_stays(
    client: FlaskClient, keep: Keep, source: str, message: Any, place: list[Any], reason: str
) -> None:
    letter = keep(source, message)
    answer = replay(client, letter)
    assert answer.status_code == 422
    fault = answer.json["errors"][0]
    assert fault["loc"] == place
    assert reason in fault["msg"]
    assert_stays(client, letter)


def test_what_conflicts_with_what_is_there_stays(client: FlaskClient, graph: Graph, keep: Keep) -> None:
    first = plan()
    client.post("/v1/plans", json=first)
    letter = keep(APPROVED, {**first, "title": "another"})
    answer = replay(client, letter)
    assert answer.status_code == 422
    assert f"plan {first['plan_id']} exists with other content" in answer.json["detail"]
    assert_stays(client, letter)
    client.delete(f"/v1/deadletters/{letter.dead_letter_id}")
    made = decision(task())
    graph.record_decisions([made])
    letter = keep("council", decision(made.task, "another").dump())
    assert replay(client, letter).status_code == 422
    assert graph.decision(made.deliberation_id) == made
    assert_stays(client, letter)


def test_while_neo4j_is_away_a_letter_waits(client: FlaskClient, services: Services, keep: Keep) -> None:
    services.graph = Graph("bolt://127.0.0.1:1", "neo4j", "x", connection_timeout_s=0.5, max_transaction_retry_s=0.1)
    letter = keep("council", decision(task()).dump())
    answer = replay(client, letter)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert_stays(client, letter)


def test_a_discarded_letter_is_gone_and_comes_back_when_its_message_does(
    client: FlaskClient, store: Store, keep: Keep
) -> None:
    letter = keep(APPROVED, "{")
    path = f"/v1/deadletters/{letter.dead_letter_id}"
    answer = client.delete(path)
    assert (answer.status_code, answer.data) == (204, b"")
    assert_gone(client, store, letter)
    assert client.delete(path).status_code == 404
    assert replay(client, letter).status_code == 404
    keep(APPROVED, "{")
    assert_stays(client, letter)


@pytest.mark.parametrize(("scope", "status"), [("read", 403), ("submit", 403), ("admin", 202)])
def test_only_an_administrator_may_change_dead_letters(
    app: Flask, client: FlaskClient, keep: Keep, scope: str, status: int
) -> None:
    key = client.post("/v1/keys", json={"name": "n", "scopes": [scope]}).json["key"]
    caller = app.test_client()
    caller.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    letter = keep(APPROVED, plan())
    assert replay(caller, letter).status_code == status
    assert caller.delete(f"/v1/deadletters/{letter.dead_letter_id}").status_code == (404 if status == 202 else 403)


def test_several_agents_that_died_of_one_task_are_replayed_as_one_deliberation(
    client: FlaskClient, store: Store
) -> None:
    about = task()
    parts = [f"{about.deliberation_id}.propose:0.agent-dev-00{number}" for number in (1, 2)]
    letters = [store.dead_letters.add("agents", "it died", about.dump(), 3, message_id=part) for part in parts]
    assert letters[0].dead_letter_id != letters[1].dead_letter_id
    answers = [replay(client, letter) for letter in letters]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert client.get(answers[0].json["location"]).json["replay_of"] == about.deliberation_id
    assert client.get("/v1/deadletters").json["items"] == []
