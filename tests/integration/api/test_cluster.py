"""What the API shows of the workers, the queues and the totals."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from fleet.api.services import Services
from fleet.cluster import Job, WorkerState
from fleet.events import DeliberationStarted
from fleet.models import Decision, Role
from fleet.store import Attempt, Part, Store

BODY: dict[str, Any] = {"task_description": "Write a parser", "role": "DEV"}


def state(store: Store, worker: str, **fields: Any) -> WorkerState:
    found = {"worker": worker, "host": "a", "pid": 7, "pool": "threads", "slots": 4, "queues": ("agents",)}
    return WorkerState(**{**found, "at_ms": store.workers.now_ms(), **fields})


def job(store: Store, number: int, queue: str = "agents", age_ms: int = 0) -> Job:
    return Job(job_id=f"j{number}", name="n", queue=queue, started_at_ms=store.workers.now_ms() - age_ms)


def test_jobs_are_what_the_workers_run_the_oldest_first(client: FlaskClient, store: Store) -> None:
    about = {"deliberation_id": "d", "step": "propose:0", "agent_id": "agent-dev-001", "role": Role.DEV, "task_id": "t"}
    old = job(store, 1, age_ms=90_000).model_copy(update=about)
    store.workers.report(state(store, "w1", jobs=(job(store, 2),)))
    store.workers.report(state(store, "w2", jobs=(old,)))
    [first, second] = client.get("/v1/jobs").json["items"]
    assert (first["job_id"], second["job_id"]) == ("j1", "j2")
    assert {**first, **about} == first
    assert (first["worker"], first["status"], first["queue"]) == ("w2", "RUNNING", "agents")
    assert 90 <= first["runtime_s"] < 120
    assert first["start_time"].endswith("Z")
    assert "role" not in second


def test_the_cluster_adds_up_machines_and_workers(client: FlaskClient, store: Store) -> None:
    host = {"host_cpus": 2, "host_memory_mb": 1000.0, "memory_mb": 100.5}
    busy = (job(store, 1), job(store, 2))
    store.workers.report(state(store, "w1", cpu_percent=150, completed=5, jobs=busy, engine="scripted", **host))
    store.workers.report(state(store, "w2", completed=1, **host))
    store.workers.report(state(store, "w3", cpu_percent=20, host="b", host_cpus=8))
    found = client.get("/v1/cluster").json
    assert found["nodes"] == 2
    assert found["cpus"] == {"total": 10, "used": 1.7}
    assert found["memory_mb"] == {"total": 1000, "used": 201}
    assert found["jobs"] == {"active": 2, "completed": 6}
    [first, second, _] = found["workers"]
    assert (first["worker"], first["running"], first["completed"], first["engine"]) == ("w1", 2, 5, "scripted")
    assert "cpu_percent" not in second
    assert "engine" not in second


def test_a_cluster_without_workers_measures_nothing(client: FlaskClient) -> None:
    nothing = {"workers": [], "nodes": 0, "jobs": {"active": 0, "completed": 0}, "unserved": [], "breakers": []}
    assert client.get("/v1/cluster").json == nothing


def test_queues_are_fleets_own_and_those_that_workers_serve(client: FlaskClient, store: Store) -> None:
    client.post("/v1/deliberations", json={**BODY, "num_agents": 3})
    store.workers.report(state(store, "w1", queues=("council", "checks"), jobs=(job(store, 1, "council"),)))
    store.workers.report(state(store, "w2", queues=("council",), jobs=(job(store, 2, "council"),)))
    assert client.get("/v1/queues").json["items"] == [
        {"queue": "agents", "ready": 3, "running": 0, "workers": 0, "required": True},
        {"queue": "checks", "ready": 0, "running": 0, "workers": 1, "required": False},
        {"queue": "council", "ready": 0, "running": 2, "workers": 2, "required": True},
    ]


def test_stats_count_what_happened_and_what_is_open(
    client: FlaskClient, store: Store, services: Services, finish: Callable[[str], Decision]
) -> None:
    nothing = client.get("/v1/stats").json
    assert nothing["totals"] == dict.fromkeys(nothing["totals"], 0)
    assert (nothing["in_progress"], nothing["pending"], nothing["events"]) == (0, 0, 0)
    ids = [client.post("/v1/deliberations", json=BODY).json["deliberation_id"] for _ in range(4)]
    client.post("/v1/plans", json={"plan_id": "p", "story_id": "s", "roles": ["DEV", "QA"]})
    finish(ids[0])
    services.dispatcher.cancel(ids[1])
    store.dead_letters.add("relay", "why", "{}")
    store.dead_letters.add("relay", "why", "{}")
    found = client.get("/v1/stats").json
    counted = {"accepted": 6, "failed": 1, "cancelled": 1, "dead_letters": 1, "completed": 0, "partial": 0}
    assert found["totals"] == counted | {"refused_full": 0, "refused_rate": 0}
    assert (found["open"], found["limit"]) == (4, 200_000)
    assert (found["in_progress"], found["pending"]) == (0, 4)
    assert found["per_minute"] == {
        "accepted": {"last_minute": 6, "last_10_minutes": 0.6},
        "finished": {"last_minute": 2, "last_10_minutes": 0.2},
    }
    assert found["events"] == store.client.xlen("fleet:events")


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_a_deliberation_is_in_progress_from_its_first_agent_to_its_end(
    client: FlaskClient, store: Store, services: Services, finish: Callable[[str], Decision], end: str
) -> None:
    id = client.post("/v1/deliberations", json=BODY).json["deliberation_id"]
    for agent in ("agent-dev-001", "agent-dev-002"):
        started = DeliberationStarted(deliberation_id=id, task_id="t", role="DEV", status="IN_PROGRESS")
        store.deliberations.start_part(Attempt(Part(id, "propose:0", agent), "a1"), "agents", 3, started)
    running = client.get("/v1/stats").json
    assert (running["in_progress"], running["pending"]) == (1, 0)
    finish(id) if end == "finish" else services.dispatcher.cancel(id)
    ended = client.get("/v1/stats").json
    assert (ended["in_progress"], ended["pending"]) == (0, 0)


def test_stats_show_what_they_know_of_what_another_version_counts_and_nothing_below_zero(
    client: FlaskClient, store: Store
) -> None:
    store.client.hset("fleet:totals", mapping={"accepted": 2, "postponed": 7, "in_progress": -1})
    found = client.get("/v1/stats").json
    assert found["totals"] == dict.fromkeys(found["totals"], 0) | {"accepted": 2}
    assert (found["in_progress"], found["pending"]) == (0, 0)


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/cluster", "/v1/queues", "/v1/stats"])
def test_none_of_them_takes_a_parameter(client: FlaskClient, path: str) -> None:
    assert client.get(path, query_string={"limit": "1"}).status_code == 422


def test_prometheus_reads_the_same_figures(client: FlaskClient, store: Store) -> None:
    id = client.post("/v1/deliberations", json={"task_description": "Write it", "role": "DEV"}).json["deliberation_id"]
    client.post(f"/v1/deliberations/{id}/cancel")
    store.dead_letters.add("council", "no good", "{}")
    answer = client.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    values = {(one.name, *one.labels.values()): one.value for family in families.values() for one in family.samples}
    assert values["fleet_deliberations_accepted_total",] == 1
    assert values["fleet_deliberations_finished_total", "CANCELLED"] == 1
    assert values["fleet_deliberations_finished_total", "COMPLETED"] == 0
    assert values["fleet_dead_letters_total",] == 1
    assert values["fleet_queue_ready", "agents"] == 3
    assert values["fleet_queue_workers", "council"] == 0


def test_metrics_need_a_key(app: Flask) -> None:
    assert app.test_client().get("/metrics").status_code == 401
