"""What the API shows of GPU workers, their engines and devices, and of work that no worker takes."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from fleet.cluster import Device, EngineState, Job, WorkerState
from fleet.models import Role
from fleet.settings import Profile, Settings
from fleet.store import Store
from tests.harness import ValkeyServer
from tests.integration.api.conftest import KEY

DEFAULT, OTHER = "HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen3-0.6B"
OTHER_QUEUE = "gpu.qwen-qwen3-0.6b"
H100 = Device(uuid="GPU-1", name="H100", memory_total_mb=81559, memory_used_mb=70000.5, utilization_percent=87)
A30 = Device(uuid="GPU-2", name="A30", memory_total_mb=24576, memory_used_mb=1024, utilization_percent=5.5)
BUSY = EngineState(
    live=True,
    running=8,
    waiting=2,
    kv_cache_usage=0.25,
    prompt_tokens=1000,
    generation_tokens=400,
    tokens_per_s=588.5,
    prefix_cache_queries=900,
    prefix_cache_hits=600,
    adapters=("sql",),
    devices=(H100,),
)
HANGS = EngineState(live=False)


@pytest.fixture
def settings(valkey_server: ValkeyServer) -> Settings:
    """A fleet whose agents are on GPU workers, those of QA with a model of their own."""
    profiles = {Role.QA: Profile(model=OTHER)}
    model = {"agent_queue": "gpu", "gpu_model": DEFAULT, "profiles": profiles}
    return Settings(valkey_url=valkey_server.url, nats_enabled=False, api_key=KEY, **model)


def report(store: Store, worker: str, *queues: str, **fields: Any) -> None:
    about = {"host": "a", "pid": 7, "pool": "threads", "slots": 64, "engine": "vllm", "model": DEFAULT}
    state = WorkerState(**{**about, "worker": worker, "queues": queues, "at_ms": store.workers.now_ms(), **fields})
    store.workers.report(state)


def ask(client: FlaskClient, role: str, **more: Any) -> str:
    body = {"task_description": "Write a parser", "role": role, **more}
    found: str = client.post("/v1/deliberations", json=body).json["deliberation_id"]
    return found


def waits_for(client: FlaskClient, id: str) -> str | None:
    """What the deliberation waits for, which it and the list say alike."""
    found: str | None = client.get(f"/v1/deliberations/{id}").json.get("waiting_for")
    listed = {one["deliberation_id"]: one for one in client.get("/v1/deliberations").json["items"]}
    assert listed[id].get("waiting_for") == found
    return found


def samples(client: FlaskClient) -> dict[tuple[str, ...], float]:
    """What /metrics says, by its name and the values of its labels, in the order of their names."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (one.name, *(one.labels[name] for name in sorted(one.labels))): one.value
        for family in families
        for one in family.samples
    }


def test_the_cluster_shows_each_engine_with_its_devices_as_the_worker_says(client: FlaskClient, store: Store) -> None:
    report(store, "gpu0@a", "gpu", engine_state=BUSY)
    report(store, "gpu1@a", engine_state=HANGS)
    report(store, "w@a", "council", engine=None, model=None)
    [busy, hangs, other] = client.get("/v1/cluster").json["workers"]
    assert busy["engine_state"] == BUSY.model_dump(mode="json")
    assert (busy["engine"], busy["model"]) == ("vllm", DEFAULT)
    assert hangs["engine_state"] == {"live": False, "adapters": [], "devices": []}
    assert hangs["queues"] == []
    assert "engine_state" not in other


def test_gpus_are_counted_once_whoever_reports_them(client: FlaskClient, store: Store) -> None:
    now_ms = store.workers.now_ms()
    earlier = H100.model_copy(update={"memory_used_mb": 1, "utilization_percent": 0})
    both = EngineState(live=True, devices=(H100, A30))
    report(store, "gpu0@a", "gpu", engine_state=both, at_ms=now_ms)
    report(store, "gpu1@a", "gpu", engine_state=EngineState(live=True, devices=(earlier,)), at_ms=now_ms - 1)
    found = client.get("/v1/cluster").json
    assert found["gpus"] == {"total": 2, "used": 0.925}
    assert found["gpu_memory_mb"] == {"total": 106135, "used": 71024.5}


def test_what_was_not_measured_of_gpus_is_absent(client: FlaskClient, store: Store) -> None:
    report(store, "gpu0@a", "gpu", engine_state=EngineState(live=True))
    found = client.get("/v1/cluster").json
    assert not {"gpus", "gpu_memory_mb"} & set(found)
    instance = Device(uuid="MIG-1", name="H100 MIG 1g.10gb")
    report(store, "gpu0@a", "gpu", engine_state=EngineState(live=True, devices=(instance,)))
    found = client.get("/v1/cluster").json
    assert found["gpus"] == {"total": 1}
    assert "gpu_memory_mb" not in found
    assert found["workers"][0]["engine_state"]["devices"] == [{"uuid": "MIG-1", "name": "H100 MIG 1g.10gb"}]


def test_every_queue_that_work_was_sent_to_is_listed_with_its_model(client: FlaskClient, store: Store) -> None:
    ask(client, "QA", num_agents=2)
    report(store, "gpu0@a", "gpu", engine_state=BUSY)
    assert client.get("/v1/queues").json["items"] == [
        {"queue": "council", "ready": 0, "running": 0, "workers": 0, "required": True},
        {"queue": "gpu", "ready": 0, "running": 0, "workers": 1, "required": True},
        {"queue": OTHER_QUEUE, "ready": 2, "running": 0, "workers": 0, "model": OTHER, "required": False},
    ]
    assert samples(client)["fleet_queue_ready", OTHER_QUEUE] == 2


def test_work_that_no_worker_takes_is_unserved_until_one_does(client: FlaskClient, store: Store) -> None:
    ask(client, "QA", num_agents=2)
    ask(client, "DEV", num_agents=1)
    report(store, "gpu0@a", "gpu")
    waiting = {"queue": OTHER_QUEUE, "model": OTHER, "ready": 2, "reason": "none is running"}
    assert client.get("/v1/cluster").json["unserved"] == [waiting]
    report(store, "gpu1@a", engine_state=HANGS, model=OTHER)
    reason = {"reason": "the engine of gpu1@a does not answer"}
    assert client.get("/v1/cluster").json["unserved"] == [waiting | reason]
    report(store, "gpu2@a", OTHER_QUEUE, model=OTHER)
    assert client.get("/v1/cluster").json["unserved"] == []


def test_a_queue_without_work_is_not_unserved(client: FlaskClient, store: Store) -> None:
    ask(client, "QA", num_agents=1)
    store.client.delete(*store.client.keys(f"{OTHER_QUEUE}*"))
    assert client.get("/v1/cluster").json["unserved"] == []


def test_a_deliberation_says_which_worker_it_waits_for(client: FlaskClient, store: Store) -> None:
    qa, dev = ask(client, "QA"), ask(client, "DEV")
    report(store, "gpu0@a", "gpu")
    assert waits_for(client, qa) == f"a worker for the queue {OTHER_QUEUE} (model {OTHER}): none is running"
    assert waits_for(client, dev) is None
    report(store, "gpu1@a", OTHER_QUEUE, model=OTHER)
    assert waits_for(client, qa) is None


def test_a_deliberation_whose_worker_hangs_says_so(client: FlaskClient, store: Store) -> None:
    qa, dev = ask(client, "QA"), ask(client, "DEV")
    part = Job(job_id="j", name="n", queue="gpu", deliberation_id=dev, started_at_ms=store.workers.now_ms())
    report(store, "gpu0@a", engine_state=HANGS, jobs=(part,))
    reason = "the engine of gpu0@a does not answer"
    assert waits_for(client, dev) == f"a worker for the queue gpu: {reason}"
    assert waits_for(client, qa) == f"a worker for the queue {OTHER_QUEUE} (model {OTHER}): none is running"


def test_a_deliberation_with_a_part_on_a_worker_that_ends_does_not_wait(client: FlaskClient, store: Store) -> None:
    dev, other = ask(client, "DEV"), ask(client, "DEV")
    part = Job(job_id="j", name="n", queue="gpu", deliberation_id=dev, started_at_ms=store.workers.now_ms())
    report(store, "gpu0@a", jobs=(part,), engine_state=BUSY)
    assert waits_for(client, dev) is None
    assert waits_for(client, other) == "a worker for the queue gpu: none is running"


def test_what_is_final_waits_for_nobody(client: FlaskClient, finish: Any) -> None:
    dev = ask(client, "DEV")
    assert waits_for(client, dev)
    finish(dev)
    assert waits_for(client, dev) is None


def test_what_waits_for_the_graph_waits_for_no_worker(client: FlaskClient, store: Store) -> None:
    dev = ask(client, "DEV")
    store.client.hset(f"fleet:deliberation:{dev}", "step", "record")
    assert waits_for(client, dev) is None


def test_a_list_asks_for_the_workers_once_however_many_wait(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        ask(client, "QA")
    asked = []
    listed = type(store.workers).list
    monkeypatch.setattr(type(store.workers), "list", lambda self: asked.append(1) or listed(self))
    assert all("waiting_for" in one for one in client.get("/v1/deliberations").json["items"])
    assert len(asked) == 1


def test_prometheus_reads_the_engines_by_vllms_own_names(client: FlaskClient, store: Store) -> None:
    report(store, "gpu0@a", "gpu", engine_state=BUSY)
    found = samples(client)
    of_engine = {
        "fleet_engine_live": 1,
        "vllm:num_requests_running": 8,
        "vllm:num_requests_waiting": 2,
        "vllm:kv_cache_usage_perc": 0.25,
        "vllm:prompt_tokens_total": 1000,
        "vllm:generation_tokens_total": 400,
        "vllm:prefix_cache_queries_total": 900,
        "vllm:prefix_cache_hits_total": 600,
    }
    assert {name: found[name, DEFAULT, "gpu0@a"] for name in of_engine} == of_engine
    assert found["fleet_gpu_memory_total_bytes", "H100", "GPU-1"] == 81559 * 2**20
    assert found["fleet_gpu_memory_used_bytes", "H100", "GPU-1"] == 70000.5 * 2**20
    assert found["fleet_gpu_utilization_ratio", "H100", "GPU-1"] == pytest.approx(0.87)


def test_prometheus_gets_nothing_that_was_not_measured(client: FlaskClient, store: Store) -> None:
    report(store, "gpu0@a", engine_state=EngineState(live=False, running=0, devices=(Device(uuid="MIG-1", name="m"),)))
    found = samples(client)
    assert found["fleet_engine_live", DEFAULT, "gpu0@a"] == 0
    assert found["vllm:num_requests_running", DEFAULT, "gpu0@a"] == 0
    assert [name for name, *_ in found if name.startswith(("vllm:", "fleet_gpu"))] == ["vllm:num_requests_running"]


def test_a_fleet_without_gpu_workers_has_none_of_their_metrics(client: FlaskClient, store: Store) -> None:
    report(store, "w@a", "agents", "council", engine="openai")
    text = client.get("/metrics").text
    assert not any(name in text for name in ("vllm:", "fleet_gpu", "fleet_engine"))


def test_a_fleet_is_ready_while_the_engine_answers_and_only_then(client: FlaskClient, store: Store) -> None:
    report(store, "w@a", "council", engine=None, model=None)
    report(store, "gpu0@a", "gpu", engine_state=BUSY)
    assert client.get("/readyz").status_code == 200
    report(store, "gpu0@a", engine_state=HANGS)
    client.application.extensions["fleet"].__dict__.pop("readiness")  # it keeps a good answer for a second
    answer = client.get("/readyz")
    assert answer.status_code == 503
    reason = answer.json["dependencies"]["workers"]["reason"]
    assert reason == "no worker takes jobs from the queue gpu: the engine of gpu0@a does not answer"


def test_a_fleet_without_a_gpu_worker_says_how_to_start_one(client: FlaskClient, store: Store) -> None:
    report(store, "w@a", "council", engine=None, model=None)
    reason = client.get("/readyz").json["dependencies"]["workers"]["reason"]
    assert reason.endswith("the queue gpu: start one with `celery -A workers.gpu worker -Q gpu`")


def test_the_hanging_engine_of_another_model_is_no_reason(client: FlaskClient, store: Store) -> None:
    ask(client, "QA")
    report(store, "gpu1@a", engine_state=HANGS, model=OTHER)
    reason = client.get("/readyz").json["dependencies"]["workers"]["reason"]
    assert "does not answer" not in reason
    report(store, "gpu0@a", "gpu", "council")
    client.application.extensions["fleet"].__dict__.pop("readiness")
    assert client.get("/readyz").status_code == 200  # what only QA waits for
