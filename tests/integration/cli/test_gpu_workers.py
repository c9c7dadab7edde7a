"""What people see of GPU workers, and of work that no worker takes."""

from typing import Any

import pytest

from fleet.cluster import Device, EngineState, WorkerState
from fleet.store import Store
from tests.integration.cli.conftest import Served
from tests.integration.cli.test_doctor import examined

MODEL, QUEUE = "Qwen/Qwen3-0.6B", "gpu.qwen-qwen3-0.6b"
BUSY = EngineState(
    live=True,
    running=8,
    waiting=2,
    kv_cache_usage=0.257,
    tokens_per_s=588.46,
    prefix_cache_queries=900,
    prefix_cache_hits=300,
    devices=(
        Device(uuid="GPU-1", name="H100", memory_total_mb=81559, memory_used_mb=70000, utilization_percent=87),
        Device(uuid="MIG-1", name="A30 MIG"),
    ),
)


def report(store: Store, worker: str, *queues: str, **fields: Any) -> None:
    about = {"host": "vm", "pid": 1, "pool": "threads", "slots": 64, "engine": "vllm", "model": MODEL}
    state = {**about, "worker": worker, "queues": queues, "at_ms": store.workers.now_ms(), **fields}
    store.workers.report(WorkerState(**state))


def send(store: Store, parts: int, model: str = MODEL) -> None:
    """Work for the model, as it waits in the broker."""
    store.client.hset("fleet:queues", QUEUE, model)
    store.client.lpush(QUEUE, *["{}"] * parts)


def cells(text: str, name: str) -> list[str]:
    """The row that has `name` in it."""
    [row] = [line for line in text.splitlines() if name in line]
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_the_cluster_is_a_table_for_people_with_engines_and_gpus(served: Served) -> None:
    report(served.store, "gpu0@vm", QUEUE, engine_state=BUSY)
    workers, rest = served.cli("cluster").stdout.split("Engines")
    engines, gpus = rest.split("GPUs")
    gpus, totals = gpus.split("Cluster")
    assert cells(workers, "gpu0@vm") == ["gpu0@vm", QUEUE, "vllm", MODEL, "0 of 64", "0", "-", "-"]
    assert cells(engines, "gpu0@vm") == ["gpu0@vm", "answers", "8", "2", "25.7", "588.5", "33.3"]
    assert cells(gpus, "H100") == ["gpu0@vm", "H100", "70000.0", "81559.0", "87.0"]
    assert cells(gpus, "A30 MIG") == ["gpu0@vm", "A30 MIG", "-", "-", "-"]
    assert cells(totals, "gpus") == ["gpus", "2 total, 0.9 used"]
    assert cells(totals, "gpu_memory_mb") == ["gpu_memory_mb", "81559.0 total, 70000.0 used"]


def test_an_engine_that_does_not_answer_is_said_to_and_its_figures_are_not_made_up(served: Served) -> None:
    hangs = EngineState(live=False, prefix_cache_queries=0, prefix_cache_hits=0)
    report(served.store, "gpu0@vm", engine_state=hangs)
    text = served.cli("cluster").stdout
    assert cells(text.split("Engines")[1], "gpu0@vm") == ["gpu0@vm", "does not answer", *["-"] * 5]
    assert "GPUs" not in text


def test_the_cluster_names_the_work_that_nobody_takes(served: Served) -> None:
    send(served.store, 3)
    row = cells(served.cli("cluster").stdout, QUEUE)
    assert row == [QUEUE, MODEL, "3", "none is running"]
    report(served.store, "gpu0@vm", QUEUE)
    assert "Waiting for a worker" not in served.cli("cluster").stdout


def test_a_fleet_without_gpus_fits_100_columns(served: Served) -> None:
    figures = {"memory_mb": 10345.5, "cpu_percent": 153.5, "completed": 1234, "engine": "openai", "slots": 128}
    report(served.store, "agents@a-longer-host", "agents", **figures)
    report(served.store, "council@a-longer-host", "council", **figures)
    code, text, _ = served.start("cluster", COLUMNS="100").finished()
    assert code == 0
    row = ["agents@a-longer-host", "agents", "openai", MODEL, "0 of 128", "1234", "10345.5", "153.5"]
    assert cells(text, "agents@a-longer-host") == row
    assert max(map(len, text.splitlines())) <= 100
    assert "Engines" not in text


def test_queues_and_jobs_show_the_queues_of_other_models(served: Served) -> None:
    send(served.store, 3)
    assert cells(served.cli("queues").stdout, QUEUE) == [QUEUE, "3", "0", "0"]


def test_a_deliberation_that_waits_for_a_worker_says_so_until_one_runs(served: Served) -> None:
    id = served.pending()
    assert "waits for a worker for the queue agents: none is running" in served.cli("deliberation", "show", id).stdout
    report(served.store, "w@vm", "agents")
    assert "waits for" not in served.cli("deliberation", "show", id).stdout


def test_the_doctor_says_which_model_work_waits_for_and_how_to_start_its_worker(served: Served) -> None:
    report(served.store, "w@vm", "agents", "council")
    send(served.store, 3)
    code, parts = examined(served)
    assert code == 1
    part = parts[f"queue {QUEUE}"]
    assert (part["ok"], part["needed"]) == (False, True)
    assert part["state"] == f"3 parts wait for the model {MODEL}: none is running"
    assert part["remedy"] == f"FLEET_GPU_MODEL={MODEL} celery -A workers.gpu worker -Q {QUEUE}"
    assert [name for name, one in parts.items() if one["needed"] and not one["ok"]] == [f"queue {QUEUE}"]


def test_a_queue_that_nothing_waits_in_needs_no_worker(served: Served) -> None:
    report(served.store, "w@vm", "agents", "council")
    send(served.store, 1)
    served.store.client.delete(QUEUE)
    code, parts = examined(served)
    assert code == 0
    assert parts[f"queue {QUEUE}"]["needed"] is False


def test_the_doctor_names_an_engine_that_does_not_answer(served: Served) -> None:
    report(served.store, "w@vm", "agents", "council", "gpu")
    report(served.store, "gpu0@vm", engine_state=EngineState(live=False))
    report(served.store, "gpu1@vm", "gpu", engine_state=BUSY)
    send(served.store, 1)
    code, parts = examined(served)
    assert code == 1
    assert parts["engine of gpu1@vm"]["ok"]
    assert parts["engine of gpu0@vm"]["state"] == f"does not answer, model {MODEL}"
    assert "FLEET_GPU_HANG_S" in parts["engine of gpu0@vm"]["remedy"]
    assert "engine of w@vm" not in parts
    assert parts[f"queue {QUEUE}"]["state"].startswith(f"1 part waits for the model {MODEL}: the engine of gpu0@vm")


@pytest.mark.parametrize("package", ["vllm", "nvidia-ml-py"])
def test_what_only_gpu_nodes_need_may_be_missing(served: Served, package: str) -> None:
    _, parts = examined(served)
    part = parts[f"package {package}"]
    assert part["needed"] is False
    assert part["remedy"] == "pip install 'fleet[gpu]'"
