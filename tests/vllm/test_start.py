"""What a GPU worker refuses to start with, and how it ends when it is told to."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Process, ValkeyServer, wait_until
from tests.vllm.bench import Bench, open_bench
from tests.vllm.conftest import NewWorker, VllmWorker

pytestmark = pytest.mark.timeout(900)  # engines start in 20 to 60 s, some tests need several


@pytest.fixture
def bench(valkey_server: ValkeyServer) -> Iterator[Bench]:
    with open_bench(valkey_server) as made:
        yield made


def refused(worker: VllmWorker, *options: str) -> tuple[int, str]:
    """Exit status and reason of a worker that does not start."""
    worker.command += options
    worker.spawn()
    assert worker.popen is not None
    status = worker.popen.wait(120)
    [line] = [line for line in worker.output().splitlines() if line.startswith("worker: ")]
    return status, line


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-P", "solo"), "has no threads that could share an engine"),
        (("-c", "1"), "one request at a time"),
        (("-Q", "gpu.other-model"), "is for another model"),
        (("-Q", "council"), "is not for GPU workers"),
    ],
)
def test_a_worker_that_could_not_batch_or_serve_is_refused_with_the_reason(
    bench: Bench, new_gpu_worker: NewWorker, options: tuple[str, ...], reason: str
) -> None:
    status, line = refused(new_gpu_worker(bench.valkey.url), *options)
    assert status == 2
    assert reason in line


@pytest.mark.parametrize(
    ("model", "settings", "reason"),
    [
        ("/no/such/folder", {}, "there is no folder /no/such/folder"),
        ("nobody/has-such-a-model", {}, "nobody/has-such-a-model"),
        (None, {"gpu_engine_args": {"max_modle_len": 5}}, "max_modle_len"),
        (None, {"gpu_engine_args": {"max_num_seqs": 3}}, "max_num_seqs"),
        (None, {"gpu_engine_args": {"enforce_eager": True, "kv_cache_memory_bytes": 2**50}}, "memory"),
        (None, {"gpu_adapters": {"mine": "/no/such/adapter"}}, "/no/such/adapter"),
    ],
)
def test_what_cannot_be_loaded_ends_the_worker_with_one_clear_line(
    bench: Bench, new_gpu_worker: NewWorker, vllm_model: Path, model: str | None, settings: dict[str, Any], reason: str
) -> None:
    worker = new_gpu_worker(bench.valkey.url, model or vllm_model, **settings)
    status, line = refused(worker)
    assert status == 2
    assert "cannot load the model" in line
    assert reason in line
    wait_until(lambda: not worker.family(), 10, "nothing is left")


def test_a_worker_needs_valkey_and_a_model_and_neither_the_drivers_nor_the_addresses_of_the_other_servers(
    bench: Bench, new_gpu_worker: NewWorker, tmp_path: Path
) -> None:
    for driver in ("neo4j", "nats", "flask"):
        (tmp_path / "absent" / driver).mkdir(parents=True)
        (tmp_path / "absent" / driver / "__init__.py").write_text(f"raise ImportError('{driver} is not installed')")
    worker = new_gpu_worker(bench.valkey.url)
    kept = {"PATH", "HOME", "LANG"} | {name for name in worker.env if name.startswith(("VLLM_", "HF_", "GOMP_"))}
    needed = {"FLEET_VALKEY_URL", "FLEET_GPU_MODEL", "FLEET_GPU_ENGINE_ARGS"}
    worker.env = {name: value for name, value in worker.env.items() if name in kept | needed}
    worker.env["PYTHONPATH"] = str(tmp_path / "absent")
    worker.start()
    id = bench.submit()
    bench.answered(id)
    assert worker.end() == 0


def test_what_runs_at_sigterm_is_answered_and_the_worker_ends_well(bench: Bench, new_gpu_worker: NewWorker) -> None:
    worker = new_gpu_worker(bench.valkey.url)
    worker.start()
    id = bench.submit(agents=3)
    bench.await_running(3)
    assert worker.end(240) == 0
    assert len(bench.answers(id)) == 3
    assert {one.failure and one.failure.type for one in bench.answers(id)} <= {None, "truncated"}


def test_what_runs_when_a_worker_is_told_twice_to_stop_is_answered_or_goes_back_and_does_not_fail(
    bench: Bench, new_gpu_worker: NewWorker
) -> None:
    worker = new_gpu_worker(bench.valkey.url)
    worker.start()
    id = bench.submit(agents=3)
    bench.await_running(3)
    assert worker.popen is not None
    for heard in ("Warm shutdown", "Cold shutdown"):  # Ctrl-C, and once more
        worker.popen.send_signal(signal.SIGINT)
        wait_until(lambda heard=heard: heard in worker.output() or not worker.alive, 30, heard)
    wait_until(lambda: not worker.alive, 60, "the worker ends")
    answers = bench.answers(id)
    assert {one.failure and one.failure.type for one in answers} <= {None, "truncated"}
    assert len(answers) + bench.store.statistics.ready(["gpu"])["gpu"] == 3


def test_a_worker_that_is_told_to_end_while_it_loads_ends(bench: Bench, new_gpu_worker: NewWorker) -> None:
    worker = new_gpu_worker(bench.valkey.url)
    worker.spawn()
    wait_until(worker.engine_cores, 60, "the engine's process")
    assert worker.end(15) == 0
    assert bench.store.workers.list() == []


def test_what_was_answered_while_valkey_was_away_is_kept_and_not_answered_again(
    new_valkey: Callable[..., ValkeyServer], new_gpu_worker: NewWorker
) -> None:
    valkey = new_valkey()
    with open_bench(valkey) as bench:
        worker = new_gpu_worker(valkey.url)
        worker.start()
        id = bench.submit(agents=2)
        bench.await_running(2)
        valkey.kill()
        wait_until(lambda: "valkey.away" in worker.output(), 240, "an answer cannot be kept yet")
        valkey.start()
        answers = bench.answered(id, 2)
        state = bench.report(lambda one: one.engine_state and not one.jobs).engine_state
        assert state is not None
        assert state.generation_tokens is not None
        assert state.generation_tokens <= sum(one.completion_tokens for one in answers) * 1.1
        assert len(bench.ends(id)) == 2
        assert worker.end() == 0


def test_no_other_worker_takes_from_the_queues_of_gpu_workers(valkey_server: ValkeyServer, tmp_path: Path) -> None:
    for queue in ("gpu", "agents,gpu.some-model"):
        command = [sys.executable, "-m", "celery", "-A", "fleet", "worker", "-Q", queue]
        process = Process(command, tmp_path / "worker.log", {"FLEET_VALKEY_URL": valkey_server.url})
        process.spawn()
        assert process.popen is not None
        assert process.popen.wait(60) == 2
        assert "celery -A workers.gpu worker" in process.output()
