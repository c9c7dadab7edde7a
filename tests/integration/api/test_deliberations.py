import threading
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from flask.testing import FlaskClient

from fleet.api.services import Services
from fleet.dispatch import lane
from fleet.graph import deliberation_of
from fleet.models import Answer, Decision
from fleet.store import Part, Store
from fleet.store.pages import Pages
from fleet.tasks.watchdog import Watch
from fleet.valkey.transport import list_keys

REQUEST: dict[str, Any] = {"task_description": "Write a parser", "role": "DEV"}
NO_WORKER = "a worker for the queue agents: none is running"


def submitted(client: FlaskClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/deliberations", json={**REQUEST, **changes})
    assert answer.status_code == 202
    found: dict[str, Any] = answer.json
    return found


def test_a_new_deliberation_is_accepted_and_found_under_its_location(client: FlaskClient, store: Store) -> None:
    answer = client.post("/v1/deliberations", json={**REQUEST, "num_agents": 2, "rounds": 0})
    assert answer.status_code == 202
    assert (answer.json["status"], answer.json["expected_count"], answer.json["rounds"]) == ("PENDING", 2, 0)
    assert client.get(answer.headers["Location"]).json == {**answer.json, "waiting_for": NO_WORKER}
    assert store.statistics.ready(["agents"])["agents"] == 2


def test_without_a_key_every_request_is_a_deliberation_of_its_own(client: FlaskClient) -> None:
    assert submitted(client)["deliberation_id"] != submitted(client)["deliberation_id"]


def test_the_same_key_and_body_are_the_same_deliberation(client: FlaskClient, store: Store) -> None:
    key = {"Idempotency-Key": "key-1"}
    first = client.post("/v1/deliberations", json=REQUEST, headers=key)
    again = client.post("/v1/deliberations", json=REQUEST, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.data == first.data
    assert again.headers["Location"] == first.headers["Location"]
    assert store.statistics.ready(["agents"])["agents"] == 3


def test_the_same_key_with_another_body_or_path_is_refused(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "key-1"}
    client.post("/v1/deliberations", json=REQUEST, headers=key)
    for path, body in [
        ("/v1/deliberations", {**REQUEST, "role": "QA"}),
        ("/v1/plans", {"plan_id": "plan-1", "story_id": "story-1"}),
    ]:
        answer = client.post(path, json=body, headers=key)
        assert answer.status_code == 422
        assert answer.json["type"] == "/docs#problem-idempotency-key-reused"


def test_the_same_task_of_a_plan_with_another_description_is_a_conflict(client: FlaskClient) -> None:
    ids = {"plan_id": "plan-1", "story_id": "story-1", "task_id": "task-1"}
    submitted(client, **ids)
    assert client.post("/v1/deliberations", json={**REQUEST, **ids}).status_code == 200
    other = {**REQUEST, **ids, "task_description": "Write a lexer"}
    assert client.post("/v1/deliberations", json=other).status_code == 409


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"task_description": None}, "task_description"),
        ({"task_description": " \t\n"}, "task_description"),
        ({"task_description": ["x"]}, "task_description"),
        ({"role": "dev"}, "role"),
        ({"role": ""}, "role"),
        ({"rounds": 4}, "rounds"),
        ({"num_agents": 11}, "num_agents"),
        ({"strategy": "coin"}, "strategy"),
        ({"deliberation_id": "mine"}, "deliberation_id"),
        ({"story_id": "a b"}, "story_id"),
        ({"constraints": {"metadata": {"a": 1}}}, "constraints"),
        ({"constraints": {"requirements": ["x"] * 51}}, "constraints"),
    ],
)
def test_bad_input_is_refused_with_its_place_and_stores_nothing(
    client: FlaskClient, store: Store, changes: dict[str, Any], field: str
) -> None:
    answer = client.post("/v1/deliberations", json={**REQUEST, **changes})
    assert answer.status_code == 422
    assert answer.json["errors"][0]["loc"][:2] == ["body", field]
    assert store.client.dbsize() == 0


def test_the_result_is_shown_once_it_is_final(client: FlaskClient, finish: Callable[[str], Decision]) -> None:
    id = submitted(client)["deliberation_id"]
    assert "reason" not in client.get(f"/v1/deliberations/{id}").json
    finish(id)
    found = client.get(f"/v1/deliberations/{id}").json
    assert (found["status"], found["reason"]) == ("FAILED", "no proposal")


def test_a_wait_ends_when_the_deliberation_is_final(client: FlaskClient, finish: Callable[[str], Decision]) -> None:
    id = submitted(client)["deliberation_id"]
    finishing = threading.Timer(0.2, finish, [id])
    finishing.start()
    assert client.get(f"/v1/deliberations/{id}?wait=60").json["status"] == "FAILED"
    finishing.join()


def test_a_wait_that_runs_out_answers_what_is_known(client: FlaskClient) -> None:
    id = submitted(client)["deliberation_id"]
    assert client.get(f"/v1/deliberations/{id}?wait=0.05").json["status"] == "PENDING"


def test_a_wait_ends_when_the_process_is_to_stop(client: FlaskClient, services: Services) -> None:
    id = submitted(client)["deliberation_id"]
    services.stopping = lambda: True
    assert client.get(f"/v1/deliberations/{id}?wait=60").json["status"] == "PENDING"


@pytest.mark.parametrize("query", ["wait=61", "wait=-1", "wait=soon", "wait=", "wait=nan", "wait=1&wait=2", "waits=1"])
def test_a_wrong_wait_is_refused(client: FlaskClient, query: str) -> None:
    id = submitted(client)["deliberation_id"]
    assert client.get(f"/v1/deliberations/{id}?{query}").status_code == 422


def test_what_was_finished_longer_ago_than_the_retention_comes_from_the_graph(
    client: FlaskClient, services: Services, finish: Callable[[str], Decision]
) -> None:
    id = submitted(client)["deliberation_id"]
    services.graph.deliberations[id] = deliberation_of(finish(id))
    services.store.client.flushall()
    assert client.get(f"/v1/deliberations/{id}").json["status"] == "FAILED"


def test_an_unknown_deliberation_is_not_found_and_503_while_the_graph_is_away(
    client: FlaskClient, services: Services
) -> None:
    assert client.get("/v1/deliberations/nobody").status_code == 404
    services.graph.away = True
    assert client.get("/v1/deliberations/nobody").status_code == 503
    known = submitted(client)["deliberation_id"]
    assert client.get(f"/v1/deliberations/{known}").status_code == 200


def pages(client: FlaskClient, **query: Any) -> list[list[dict[str, Any]]]:
    found, cursor = [], None
    while True:
        answer = client.get("/v1/deliberations", query_string={**query, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200
        found.append(answer.json["items"])
        cursor = answer.json.get("next_cursor")
        if cursor is None:
            return found


def seven_of_one_moment(client: FlaskClient) -> set[str]:
    subtasks = [{"subtask_id": f"s{n}", "title": "T", "role": "DEV" if n % 2 else "QA"} for n in range(7)]
    accepted = client.post("/v1/plans", json={"plan_id": "plan-1", "story_id": "story-1", "subtasks": subtasks})
    return {one["deliberation_id"] for one in accepted.json["deliberations"]}


@pytest.mark.parametrize("chunk", [1, 2, 200])
def test_pages_hold_every_deliberation_once_though_many_were_made_in_the_same_moment(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("fleet.store.pages._CHUNK", chunk)
    ids = seven_of_one_moment(client)
    newest = submitted(client)["deliberation_id"]
    found = pages(client, limit=3)
    assert [len(page) for page in found] == [3, 3, 2]
    shown = [one["deliberation_id"] for page in found for one in page]
    assert shown[0] == newest
    assert sorted(shown[1:]) == sorted(ids)


def test_filters_narrow_a_list_down(client: FlaskClient, finish: Callable[[str], Decision]) -> None:
    seven_of_one_moment(client)
    alone = submitted(client)["deliberation_id"]
    finish(alone)
    assert [one["role"] for page in pages(client, limit=2, role="DEV", plan_id="plan-1") for one in page] == ["DEV"] * 3
    assert [one["deliberation_id"] for page in pages(client, status="FAILED") for one in page] == [alone]
    assert pages(client, plan_id="plan-2") == [[]]


def test_a_list_leaves_out_what_is_heavy(client: FlaskClient, finish: Callable[[str], Decision]) -> None:
    id = submitted(client)["deliberation_id"]
    finish(id)
    assert client.get(f"/v1/deliberations/{id}").json["failures"]
    one = pages(client)[0][0]
    assert (one["deliberation_id"], one["status"]) == (id, "FAILED")
    assert (one["results"], one["ballots"], one["failures"]) == ([], [], [])


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "status=DONE", "role=PILOT", "plan_id=%00", "cursor=x", "cursor=", "page=2",
     "limit=1&limit=2"],
)  # fmt: skip
def test_a_wrong_query_of_a_list_is_refused(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/v1/deliberations?{query}")
    assert answer.status_code == 422
    assert answer.json["errors"][0]["loc"][0] == "query"


def test_entries_behind_a_forgotten_one_are_still_found(client: FlaskClient, store: Store) -> None:
    seven_of_one_moment(client)
    listing = Pages(store.client, store.submissions, store.dead_letters)
    first = listing.deliberations(3)
    assert first.end is not None
    store.client.zrem("fleet:deliberations", first.end.id)
    assert len(listing.deliberations(10, first.end).items) == 4


def test_a_cancelled_deliberation_says_so_and_cannot_be_cancelled_again(client: FlaskClient, store: Store) -> None:
    id = submitted(client)["deliberation_id"]
    answer = client.post(f"/v1/deliberations/{id}/cancel")
    assert (answer.status_code, answer.json["status"]) == (202, "CANCELLED")
    assert answer.json["reason"] == "cancelled in propose:0 with 0 of 3 proposals"
    again = client.post(f"/v1/deliberations/{id}/cancel")
    assert again.status_code == 409
    assert again.json["type"] == "/docs#problem-wrong-state"
    assert again.json["detail"] == f"deliberation {id} is CANCELLED"
    cancelled = [event for event in store.events.read() if event.subject == "orchestration.deliberation.cancelled"]
    assert len(cancelled) == 1


def test_a_decided_deliberation_cannot_be_cancelled_while_it_waits_for_the_graph(
    client: FlaskClient, store: Store
) -> None:
    id = submitted(client)["deliberation_id"]
    store.client.hset(f"fleet:deliberation:{id}", "step", "record")
    answer = client.post(f"/v1/deliberations/{id}/cancel")
    assert (answer.status_code, answer.json["detail"]) == (409, f"deliberation {id} is decided already")


def test_a_final_deliberation_is_replayed_as_a_new_one(
    client: FlaskClient, store: Store, finish: Callable[[str], Decision]
) -> None:
    old = submitted(client, plan_id="plan-1", story_id="story-1", task_id="task-1")["deliberation_id"]
    assert client.post(f"/v1/deliberations/{old}/replay").status_code == 409
    finish(old)
    answer = client.post(f"/v1/deliberations/{old}/replay")
    assert answer.status_code == 202
    assert (answer.json["replay_of"], answer.json["task_id"], answer.json["status"]) == (old, "task-1", "PENDING")
    assert answer.json["deliberation_id"] != old
    assert client.get(answer.headers["Location"]).json == {**answer.json, "waiting_for": NO_WORKER}
    assert store.statistics.ready(["agents"])["agents"] == 6


def test_a_replay_is_repeated_by_no_key_and_once_by_the_same_key(
    client: FlaskClient, finish: Callable[[str], Decision]
) -> None:
    old = submitted(client)["deliberation_id"]
    finish(old)

    def replay(**headers: str) -> str:
        id: str = client.post(f"/v1/deliberations/{old}/replay", headers=headers).json["deliberation_id"]
        return id

    assert replay() != replay()
    assert replay(**{"Idempotency-Key": "once"}) == replay(**{"Idempotency-Key": "once"})


def test_a_deliberation_that_only_the_graph_has_is_replayed_from_there(
    client: FlaskClient, services: Services, store: Store, finish: Callable[[str], Decision]
) -> None:
    old = submitted(client)["deliberation_id"]
    services.graph.decisions[old] = finish(old)
    services.graph.deliberations[old] = deliberation_of(services.graph.decisions[old])
    store.client.delete(f"fleet:deliberation:{old}")
    assert client.post(f"/v1/deliberations/{old}/replay").json["replay_of"] == old


@pytest.mark.parametrize("verb", ["cancel", "replay"])
def test_an_unknown_deliberation_cannot_be_cancelled_or_replayed(client: FlaskClient, verb: str) -> None:
    assert client.post(f"/v1/deliberations/nobody/{verb}").status_code == 404


def test_what_has_begun_is_taken_before_what_has_not(
    client: FlaskClient, services: Services, store: Store, celery_app: Celery
) -> None:
    ids = [submitted(client, rounds=1)["deliberation_id"] for _ in range(3)]
    begun = store.deliberations.task(ids[2])
    store.client.hset(f"fleet:deliberation:{ids[2]}", "step", "review:1")
    services.dispatcher.open_step(begun, "review:1", begun.agents)
    with celery_app.connection() as connection, connection.SimpleQueue("agents") as queue:
        taken = [queue.get(timeout=5).headers["id"].rsplit(".", 1)[0] for _ in range(12)]
    assert taken == [f"{ids[2]}.review:1"] * 3 + [f"{id}.propose:0" for id in ids for _ in range(3)]


def test_a_lost_part_is_found_whether_it_belongs_to_new_work_or_to_begun(
    client: FlaskClient, services: Services, store: Store, celery_app: Celery
) -> None:
    id = submitted(client, rounds=1)["deliberation_id"]
    store.client.delete(*list_keys("agents"))
    watch = Watch(store, services.dispatcher, celery_app, services.settings)
    for step in ("propose:0", "review:1"):
        task = store.deliberations.task(id)
        store.client.hset(f"fleet:deliberation:{id}", "step", step)
        services.dispatcher.open_step(task, step, task.agents)
        store.client.delete(*list_keys("agents"))
        for agent in task.agents:
            store.client.zincrby(f"fleet:unstarted:{lane('agents', step)}", -60_000, Part(id, step, agent).id)
        watch.once()
        assert store.statistics.ready(["agents"]) == {"agents": 3}
        watch.once()
        assert store.statistics.ready(["agents"]) == {"agents": 3}
        for agent in task.agents:
            answer = Answer(agent_id=agent, step=step, content={"summary": agent}, created_at_ms=1)
            store.client.hset(f"fleet:deliberation:{id}:answers", f"{step}.{agent}", answer.dump())


def test_without_a_relay_the_watchdog_keeps_the_event_log_short(
    services: Services, store: Store, celery_app: Celery
) -> None:
    with store.client.pipeline() as pipeline:
        for _ in range(10_500):
            pipeline.xadd("fleet:events", {"subject": "s", "payload": "{}"})
        pipeline.execute()
    assert not services.settings.nats_enabled
    Watch(store, services.dispatcher, celery_app, services.settings).once()
    assert store.client.xlen("fleet:events") <= 10_100
