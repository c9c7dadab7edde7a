"""Real vLLM on this machine's processor, with a 135M model; `make test-vllm` runs these tests in .venv-vllm.

`gpu_worker` is a worker that the session's tests share, `new_gpu_worker` starts one for a test that kills it, and
`vllm_fleet` is a whole `fleet up --engine vllm` for the tests of one file. Each start takes 20 to 60 s and two at once
share the cores, so start as few as possible. `tests.harness.wait_until` waits for a condition.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet.stack import vllm
from fleet.stack.processes import NOT_FOR_GPU, GpuWorker
from tests.acceptance.conftest import RunningFleet, new_plan
from tests.harness import Process, ValkeyServer, wait_until

__all__ = ["NewWorker", "VllmWorker", "new_plan"]

# Plain `pytest tests` in .venv leaves these tests out. In .venv-vllm nothing is skipped: what is missing is a failure.
collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]


def pytest_report_header() -> str | None:
    return None if find_spec("vllm") else "tests/vllm: this Python has no vLLM, run `make test-vllm`"


class VllmWorker(GpuWorker):
    """`celery -A workers.gpu worker -Q gpu` as on a GPU node: it knows ValKey and the model, and nothing else.

    `settings` are Fleet's by name, such as `gpu_slots=4`; they go before those that suit the small model.
    """

    def __init__(self, folder: Path, valkey_url: str, model: Path | str, **settings: Any):
        super().__init__(folder / "worker.log")
        self.env.update(dict.fromkeys(NOT_FOR_GPU))
        own = {"gpu_model": str(model), "valkey_url": valkey_url, "agent_queue": "gpu", "dir": str(folder)}
        self.env.update(vllm.ENVIRONMENT | vllm.variables_of(vllm.SMALL_MODEL | own | settings))

    def family(self) -> list[psutil.Process]:
        """The living processes of the worker's session: itself, vLLM's EngineCore and their helpers."""
        return [process for process in psutil.process_iter() if _session(process.pid) == self.pid and _runs(process)]

    def engine_cores(self) -> list[psutil.Process]:
        """The processes that vLLM computes in."""
        return [process for process in self.family() if "EngineCore" in " ".join(process.cmdline())]

    def end(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; returns the exit status, AssertionError when a process of it is left."""
        try:
            self.terminate()
            assert self.popen is not None
            status = self.popen.wait(timeout_s)
            wait_until(lambda: not self.family(), 10, "the engine ends with its worker")
            return status
        finally:
            self.kill()


def _session(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return os.getsid(pid)
    return None


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


NewWorker = Callable[..., VllmWorker]


@pytest.fixture(scope="session")
def vllm_model() -> Path:
    """The folder of SmolLM2-135M-Instruct in safetensors."""
    command = [sys.executable, "-m", "workers.gpu.smollm2"]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


@pytest.fixture(scope="session")
def vllm_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """The Valkey of the shared worker; not to be emptied or killed, so tests use ids of their own."""
    server = ValkeyServer(tmp_path_factory.mktemp("vllm-valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gpu_worker(
    vllm_valkey: ValkeyServer, vllm_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmWorker]:
    """A worker with its engine loaded, shared by the session; not to be killed."""
    worker = VllmWorker(tmp_path_factory.mktemp("gpu-worker"), vllm_valkey.url, vllm_model)
    try:
        worker.start()
        yield worker
        worker.end()
    finally:
        worker.kill()


@pytest.fixture
def new_gpu_worker(tmp_path: Path, vllm_model: Path) -> Iterator[NewWorker]:
    """Makes workers of this test's own: `new_gpu_worker(valkey.url, gpu_slots=4).start()`; may be killed in any way.

    Not started yet, so that a test can see a start fail; what is left of it is killed when the test is over.
    """
    made: list[VllmWorker] = []

    def make(valkey_url: str, model: Path | str = vllm_model, **settings: Any) -> VllmWorker:
        made.append(VllmWorker(tmp_path / f"gpu-worker-{len(made)}", valkey_url, model, **settings))
        return made[-1]

    yield make
    for worker in made:
        worker.kill()
    started = [worker for worker in made if worker.popen]
    wait_until(lambda: not [process for worker in started for process in worker.family()], 10, "nothing is left")


@pytest.fixture(scope="module")
def vllm_fleet(vllm_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:  # noqa: ARG001
    """A whole `fleet up --engine vllm`, shared by the tests of one file; no process of it is left behind.

    Its proposals are as short as they may be, for time's sake.
    """
    folder = tmp_path_factory.mktemp("vllm-fleet")
    command = [sys.executable, "-m", "fleet.cli", "up", "--dir", str(folder), "--engine", "vllm"]
    process = Process(command, folder / "up.log", env={"FLEET_PROPOSAL_CHARS": "600"})
    process.start()
    try:
        wait_until(lambda: (folder / "fleet.json").exists() or not process.alive, 240, f"ready, see {folder}/up.log")
        assert process.alive, process.output()
        fleet = RunningFleet(process, folder)
        sessions = set(fleet.details["pids"].values())
        yield fleet
        sessions |= set(fleet.details["pids"].values())
        assert process.stop(60) == 0, process.output()
        assert not [left for left in psutil.process_iter() if _session(left.pid) in sessions and _runs(left)]
    finally:
        process.kill()
