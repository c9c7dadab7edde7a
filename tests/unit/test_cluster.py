"""Which worker serves which queue, and how one is started."""

from typing import Any

import pytest

from fleet.cluster import NONE_RUNS, EngineState, WorkerState, start_command, why_unserved

MODELS = {"gpu": None, "gpu.b": "B", "agents": None}


def worker(name: str, *queues: str, live: bool | None = None, **fields: Any) -> WorkerState:
    engine = None if live is None else EngineState(live=live)
    about = {"worker": name, "host": "a", "pid": 1, "pool": "threads", "slots": 2, "at_ms": 1}
    return WorkerState(**about, queues=queues, engine_state=engine, **fields)


@pytest.mark.parametrize(
    ("queue", "model", "command"),
    [
        ("agents", None, "celery -A fleet worker -Q agents"),
        ("gpus", "B", "celery -A fleet worker -Q gpus"),
        ("gpu", None, "celery -A workers.gpu worker -Q gpu"),
        ("gpu.b", "org/B", "FLEET_GPU_MODEL=org/B celery -A workers.gpu worker -Q gpu.b"),
        ("gpu.b", "my $model", "FLEET_GPU_MODEL='my $model' celery -A workers.gpu worker -Q gpu.b"),
    ],
)
def test_a_queue_has_a_command_that_a_shell_takes(queue: str, model: str | None, command: str) -> None:
    assert start_command(queue, model) == command


@pytest.mark.parametrize("queue", ["agents", "gpu", "gpu.b"])
def test_a_queue_that_a_worker_takes_from_is_served_whatever_hangs(queue: str) -> None:
    assert why_unserved(queue, [worker("w", queue), worker("h", live=False)], MODELS) is None


@pytest.mark.parametrize(
    ("queue", "model", "reason"),
    [
        ("gpu", "A", "the engine of h does not answer"),
        ("gpu", None, "the engine of h does not answer"),
        ("gpu", "B", NONE_RUNS),
        ("gpu.b", "B", "the engine of h does not answer"),
        ("gpu.b", "A", NONE_RUNS),
        ("agents", "A", NONE_RUNS),
    ],
)
def test_a_hanging_engine_is_the_reason_for_the_queue_of_its_model(queue: str, model: str | None, reason: str) -> None:
    others = [worker("ends", live=True, model=model), worker("w", "council")]
    assert why_unserved(queue, [worker("h", live=False, model=model), *others], MODELS) == reason


def test_every_hanging_engine_is_named() -> None:
    hanging = [worker(name, live=False) for name in ("h1", "h2")]
    assert why_unserved("gpu", hanging, MODELS) == "the engine of h1 and h2 does not answer"
