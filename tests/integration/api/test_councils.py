import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from fleet.api.services import Services
from fleet.cluster import Job, WorkerState
from fleet.events import DeliberationStarted, about
from fleet.models import Answer, Council, Decision, Failure, Role, Status
from fleet.settings import Settings
from fleet.store import RECORD, Attempt, Part, Store
from fleet.tasks import agent as agent_task
from fleet.tasks import council as council_tasks
from fleet.tasks import process
from fleet.tasks.runtime import Runtime

from .conftest import Gunicorn, Lose

CONTENT = {"summary": "s", "approach": "a", "steps": ["s"], "artifacts": [], "risks": [], "confidence": 50}


def made(client: FlaskClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/councils", json={"role": "DEV", **changes})
    assert answer.status_code == 201
    found: dict[str, Any] = answer.json
    return found


def submitted(client: FlaskClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/deliberations", json={"task_description": "Write a parser", "role": "DEV", **changes})
    assert answer.status_code == 202
    found: dict[str, Any] = answer.json
    return found


def agents(council: Any) -> list[str]:
    return [agent["agent_id"] for agent in council["agents"]]


def test_a_council_is_made_as_asked_and_found_under_its_location(client: FlaskClient) -> None:
    wanted = {"role": "DEV", "num_agents": 2, "model": "org/model-1", "deliberation_rounds": 0, "agent_type": "openai"}
    answer = client.post("/v1/councils", json=wanted)
    assert (answer.status_code, answer.headers["Location"]) == (201, "/v1/councils/DEV")
    assert {name: answer.json[name] for name in wanted} == wanted
    assert agents(answer.json) == ["agent-dev-001", "agent-dev-002"]
    assert client.get("/v1/councils/DEV").json == answer.json
    assert client.get("/v1/councils").json["items"] == [answer.json]


def test_what_is_left_out_is_as_the_fleet_is_configured(client: FlaskClient, settings: Settings) -> None:
    council = made(client)
    assert (council["num_agents"], council["agent_type"]) == (settings.agents_per_council, "scripted")
    assert council["deliberation_rounds"] == 1


def test_the_same_council_again_is_answered_and_another_is_a_conflict(client: FlaskClient) -> None:
    first = made(client, num_agents=2)
    again = client.post("/v1/councils", json={"role": "DEV", "num_agents": 2})
    assert (again.status_code, again.json, again.headers["Location"]) == (200, first, "/v1/councils/DEV")
    for other in ({"num_agents": 3}, {"num_agents": 2, "deliberation_rounds": 2}, {"num_agents": 2, "model": "m"}):
        assert client.post("/v1/councils", json={"role": "DEV", **other}).status_code == 409
    assert client.get("/v1/councils/DEV").json == first


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"role": "PILOT"}, "role"),
        ({"role": None}, "role"),
        ({"num_agents": 0}, "num_agents"),
        ({"num_agents": 11}, "num_agents"),
        ({"num_agents": "2"}, "num_agents"),
        ({"deliberation_rounds": -1}, "deliberation_rounds"),
        ({"deliberation_rounds": 4}, "deliberation_rounds"),
        ({"model": " "}, "model"),
        ({"model": "x" * 501}, "model"),
        ({"agent_type": "a b"}, "agent_type"),
        ({"agents": []}, "agents"),
    ],
)
def test_a_council_of_another_kind_is_refused(
    client: FlaskClient, store: Store, changes: dict[str, Any], field: str
) -> None:
    answer = client.post("/v1/councils", json={"role": "DEV", **changes})
    assert answer.status_code == 422
    assert answer.json["errors"][0]["loc"][:2] == ["body", field]
    assert store.client.dbsize() == 0


def test_agents_come_and_go(client: FlaskClient) -> None:
    made(client, num_agents=2)
    added = client.post("/v1/councils/DEV/agents", json={})
    assert (added.status_code, added.headers["Location"]) == (201, "/v1/councils/DEV")
    named = client.post("/v1/councils/DEV/agents", json={"agent_id": "reviewer.7"})
    assert agents(named.json) == ["agent-dev-001", "agent-dev-002", "agent-dev-003", "reviewer.7"]
    assert named.json["num_agents"] == 4
    removed = client.delete("/v1/councils/DEV/agents/agent-dev-001")
    assert (removed.status_code, removed.data) == (204, b"")
    assert agents(client.get("/v1/councils/DEV").json) == agents(named.json)[1:]
    assert submitted(client)["agents"] == agents(named.json)[1:]


def test_an_agent_that_is_there_the_eleventh_and_the_removal_of_the_last_are_refused(client: FlaskClient) -> None:
    made(client, num_agents=10)
    for body in ({"agent_id": "agent-dev-001"}, {"agent_id": "another"}, {}):
        answer = client.post("/v1/councils/DEV/agents", json=body)
        assert (answer.status_code, answer.json["type"]) == (409, "/docs#problem-wrong-state")
    made(client, role="QA", num_agents=1)
    assert client.delete("/v1/councils/QA/agents/agent-qa-001").status_code == 409
    assert len(client.get("/v1/councils/DEV").json["agents"]) == 10
    assert len(client.get("/v1/councils/QA").json["agents"]) == 1


@pytest.mark.parametrize("id", ["", " ", "a b", "-a", "a/b", "x" * 129, 7])
def test_an_agent_with_another_kind_of_name_is_refused(client: FlaskClient, id: Any) -> None:
    made(client)
    answer = client.post("/v1/councils/DEV/agents", json={"agent_id": id})
    assert (answer.status_code, answer.json["errors"][0]["loc"]) == (422, ["body", "agent_id"])


@pytest.mark.parametrize("role", ["DEV", "dev", "PILOT", "%00"])
def test_a_council_that_is_not_there_cannot_be_changed(client: FlaskClient, store: Store, role: str) -> None:
    assert client.get(f"/v1/councils/{role}").status_code == 404
    assert client.delete(f"/v1/councils/{role}").status_code == 404
    assert client.post(f"/v1/councils/{role}/agents", json={}).status_code == 404
    assert client.delete(f"/v1/councils/{role}/agents/agent-dev-001").status_code == 404
    assert store.client.dbsize() == 0


def test_an_unknown_agent_is_not_found(client: FlaskClient) -> None:
    made(client)
    assert client.delete("/v1/councils/DEV/agents/nobody").status_code == 404


def test_a_deleted_council_is_gone_until_it_is_made_again(client: FlaskClient, store: Store) -> None:
    made(client, num_agents=2)
    answer = client.delete("/v1/councils/DEV")
    assert (answer.status_code, answer.data) == (204, b"")
    assert client.get("/v1/councils").json["items"] == []
    assert client.delete("/v1/councils/DEV").status_code == 404
    assert store.councils.deleted() == {Role.DEV}
    assert made(client, num_agents=5)["num_agents"] == 5
    assert store.councils.deleted() == set()


def test_the_next_deliberation_for_a_role_without_council_makes_one(client: FlaskClient, store: Store) -> None:
    made(client, num_agents=2)
    client.delete("/v1/councils/DEV")
    assert submitted(client)["agents"] == ["agent-dev-001", "agent-dev-002", "agent-dev-003"]
    assert client.get("/v1/councils/DEV").json["num_agents"] == 3
    assert store.councils.deleted() == set()


def test_a_council_worker_that_starts_makes_every_council_but_a_deleted_one(
    client: FlaskClient, services: Services
) -> None:
    services.dispatcher.ensure_councils()
    assert [one["role"] for one in client.get("/v1/councils").json["items"]] == list(Role)
    client.delete("/v1/councils/QA")
    services.dispatcher.ensure_councils()
    assert [one["role"] for one in client.get("/v1/councils").json["items"]] == ["DEV", "ARCHITECT", "DEVOPS", "DATA"]


def test_a_plan_without_roles_goes_to_the_councils_that_are_left(client: FlaskClient) -> None:
    for role in ("DEV", "QA"):
        made(client, role=role)
    client.delete("/v1/councils/DEV")
    accepted = client.post("/v1/plans", json={"plan_id": "plan-1", "story_id": "story-1"})
    assert [one["role"] for one in accepted.json["deliberations"]] == ["QA"]


def at_once(*calls: Callable[[], int]) -> list[int]:
    found: list[int] = []
    threads = [threading.Thread(target=lambda call=call: found.append(call())) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found)


def test_of_changes_at_the_same_moment_none_is_lost(served: Gunicorn, store: Store) -> None:
    body = {"role": "DEV", "num_agents": 4}
    assert at_once(*[lambda: served.call("POST", "/v1/councils", body).status] * 4) == [200, 200, 200, 201]
    add = lambda: served.call("POST", "/v1/councils/DEV/agents", {}).status  # noqa: E731
    assert at_once(*[add] * 8) == [201] * 6 + [409] * 2
    ids = agents(served.call("GET", "/v1/councils/DEV").json)
    assert ids == [f"agent-dev-{number:03d}" for number in range(1, 11)]
    remove = [lambda id=id: served.call("DELETE", f"/v1/councils/DEV/agents/{id}").status for id in ids]
    assert at_once(*remove) == [204] * 9 + [409]
    council = store.councils.get(Role.DEV)
    assert council is not None
    assert len(council.agents) == council.num_agents == 1


@pytest.mark.parametrize("body", [{}, {"agent_id": "another"}])
def test_an_agent_is_added_once_though_the_answer_of_the_store_is_lost(
    client: FlaskClient, lose_answer: Lose, body: dict[str, str]
) -> None:
    made(client, num_agents=2)
    lose_answer("EVALSHA")
    added = client.post("/v1/councils/DEV/agents", json=body)
    assert (added.status_code, added.json["num_agents"]) == (201, 3)
    assert client.get("/v1/councils/DEV").json == added.json


def test_what_is_removed_is_found_removed_though_the_answer_of_the_store_is_lost(
    client: FlaskClient, lose_answer: Lose
) -> None:
    made(client, num_agents=2)
    for path in ("/v1/councils/DEV/agents/agent-dev-002", "/v1/councils/DEV"):
        lose_answer("EVALSHA")
        assert [client.delete(path).status_code for _ in range(2)] == [204, 404]
    lose_answer("EVALSHA")
    assert made(client, num_agents=1)["num_agents"] == 1


@pytest.mark.usefixtures("unsettled")
@pytest.mark.parametrize("body", [{}, {"agent_id": "another"}])
def test_one_idempotency_key_adds_one_agent_though_its_answer_was_not_kept(
    client: FlaskClient, body: dict[str, str]
) -> None:
    made(client, num_agents=9)
    headers = {"Idempotency-Key": "key-1"}
    first, again = (client.post("/v1/councils/DEV/agents", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, first.json["num_agents"]) == (201, 10)
    assert (again.status_code, again.json) == (201, first.json)
    assert client.get("/v1/councils/DEV").json == first.json
    client.delete("/v1/councils/DEV/agents/agent-dev-001")
    other = client.post("/v1/councils/DEV/agents", json={"agent_id": "other"}, headers=headers)
    assert (other.status_code, agents(other.json)[-1]) == (201, "other")


@pytest.mark.usefixtures("unsettled")
def test_one_idempotency_key_makes_one_council_though_its_answer_was_not_kept(client: FlaskClient) -> None:
    send = lambda: client.post("/v1/councils", json={"role": "DEV"}, headers={"Idempotency-Key": "key-1"})  # noqa: E731
    first, again = send(), send()
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json == again.json


def test_a_council_shows_what_the_workers_say_now(client: FlaskClient, store: Store) -> None:
    made(client, num_agents=2)
    assert client.get("/v1/councils/DEV").json["status"] == "idle"
    job = Job(job_id="1", name="fleet.agent.answer", agent_id="agent-dev-002", started_at_ms=1)
    worker = WorkerState(worker="w", host="h", pid=1, pool="threads", slots=1, queues=("agents",), at_ms=1)
    store.workers.report(worker)
    assert client.get("/v1/councils/DEV").json["status"] == "active"
    store.workers.report(worker.model_copy(update={"jobs": (job,)}))
    found = client.get("/v1/councils").json["items"][0]
    assert (found["status"], [agent["status"] for agent in found["agents"]]) == ("busy", ["ready", "busy"])
    store.workers.report(worker.model_copy(update={"queues": ("council",)}))
    assert client.get("/v1/councils/DEV").json["status"] == "idle"


@pytest.fixture
def runtime(services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """What the callbacks of a deliberation use in a worker."""
    runtime = Runtime(settings)
    runtime.dispatcher = services.dispatcher
    monkeypatch.setattr(process, "_runtime", runtime)
    yield runtime
    runtime.close()


def answer(store: Store, part: Part) -> None:
    """Does an agent's part as a worker would: proposes, and fails at what comes after."""
    task = store.deliberations.task(part.deliberation_id)
    started = DeliberationStarted(status=Status.IN_PROGRESS, **about(task))
    assert store.deliberations.start_part(Attempt(part, "a1"), "agents", 3, started).verdict == "run"
    proposing = part.step.startswith("propose:")
    outcome: dict[str, Any] = (
        {"content": CONTENT} if proposing else {"failure": Failure(type="EngineTimeout", message="no answer")}
    )
    found = Answer(agent_id=part.agent_id, step=part.step, created_at_ms=1, **outcome)
    assert store.deliberations.record_answer(part, found)


def decided(store: Store, id: str) -> Decision:
    """What comes of a deliberation whose open steps are worked on to the end."""
    while (where := store.deliberations.where(id)) and where.step != RECORD:
        there = store.deliberations.answers(id).get(where.step, {})
        for agent in store.deliberations.task(id).agents:
            if agent not in there:
                answer(store, Part(id, where.step, agent))
        council_tasks._close(id, where.step)
    decision = store.deliberations.decision(id)
    assert decision is not None
    return decision


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_deliberation_finishes_with_its_agents_though_its_council_is_deleted_meanwhile(
    client: FlaskClient, store: Store, replaced: bool
) -> None:
    began_with = agents(made(client, num_agents=3, deliberation_rounds=1))
    id = submitted(client)["deliberation_id"]
    answer(store, Part(id, "propose:0", began_with[0]))
    client.delete("/v1/councils/DEV")
    if replaced:
        made(client, num_agents=1, deliberation_rounds=0)
        client.post("/v1/councils/DEV/agents", json={"agent_id": "another"})
    decision = decided(store, id)
    assert decision.status is Status.COMPLETED
    assert sorted(one.proposal.author_id for one in decision.results) == began_with
    assert {one.step for one in decision.failures} >= {"review:1", "vote:1"}, "all its rounds"
    assert client.get(f"/v1/deliberations/{id}").json["agents"] == began_with


@pytest.mark.usefixtures("runtime")
def test_an_agent_that_is_removed_meanwhile_is_waited_for(client: FlaskClient, store: Store) -> None:
    made(client, num_agents=2, deliberation_rounds=0)
    id = submitted(client)["deliberation_id"]
    client.delete("/v1/councils/DEV/agents/agent-dev-002")
    client.post("/v1/councils/DEV/agents", json={"agent_id": "another"})
    decision = decided(store, id)
    assert (decision.status, len(decision.results)) == (Status.COMPLETED, 2)
    assert submitted(client)["agents"] == ["agent-dev-001", "another"]


def test_what_is_asked_of_a_council_that_is_there_stays(store: Store) -> None:
    small, large = (Council.of(Role.QA, size, None, "scripted") for size in (1, 2))
    assert [store.councils.ensure(council) for council in (small, large)] == [small, small]


def test_a_council_with_a_model_of_its_own_asks_for_that_one(client: FlaskClient, store: Store) -> None:
    made(client, model="org/model-1")
    task = store.deliberations.task(submitted(client)["deliberation_id"])
    part = Part(task.deliberation_id, "propose:0", task.agents[0])
    generation, _ = agent_task._generation(part, task, 60.0, Settings())
    assert (task.model, generation.model) == ("org/model-1", "org/model-1")
    client.delete("/v1/councils/DEV")
    assert store.deliberations.task(submitted(client)["deliberation_id"]).model is None
