"""What a real worker says about itself, for as long as it runs and no longer."""

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from fleet.cluster import WorkerState
from fleet.dispatch import Dispatcher
from fleet.models import DeliberationRequest, Role
from fleet.settings import Settings
from fleet.store import Store
from fleet.valkey import install
from tests.harness import Process, ValkeyServer, wait_until

ROOT = Path(__file__).parents[3]
WORKER = "w@here"


class Bench:
    """A ValKey, workers of Fleet on it whose agents take half a minute, and a dispatcher."""

    def __init__(self, folder: Path, valkey: ValkeyServer, stack: ExitStack):
        self.folder, self.valkey, self._stack = folder, valkey, stack
        self.store = Store.from_settings(Settings(valkey_url=valkey.url))
        stack.callback(self.store.close)

    def worker(self, *options: str, **env: str) -> Process:
        command = [sys.executable, "-m", "celery", "-A", "fleet", "worker", "-n", WORKER, "-l", "INFO", *options]
        base = {
            "FLEET_VALKEY_URL": self.valkey.url,
            "FLEET_NEO4J_URI": "bolt://127.0.0.1:1",
            "FLEET_ENGINE": "scripted",
            "FLEET_MODEL": "parrot",
            "FLEET_SCRIPTED_LATENCY_S": "30",
        }
        process = Process(command, self.folder / "worker.log", {**base, **env}, ROOT)
        self._stack.callback(process.kill)
        process.start()
        return process

    def submit(self) -> str:
        app = Celery("fleet.reporter.tests", set_as_current=False)
        self._stack.callback(app.close)
        app.conf.update(broker_url=self.valkey.url, result_backend=f"fleet.valkey.backend:Backend+{self.valkey.url}")
        install(app)
        settings = Settings(valkey_url=self.valkey.url, engine="scripted")
        request = DeliberationRequest(task_description="Write it", role=Role.DEV, task_id="t1", num_agents=2)
        return Dispatcher(self.store, settings, app).submit_deliberation(request)[0]

    def report(self, wanted: Callable[[WorkerState], Any] = lambda _: True, within_s: float = 30) -> WorkerState:
        """The first report that is as wanted."""

        def look() -> WorkerState | None:
            return next((state for state in self.store.workers.list() if wanted(state)), None)

        found = wait_until(look, within_s, "the worker's report")
        assert found is not None
        return found

    def await_none(self, within_s: float = 30) -> None:
        wait_until(lambda: not self.store.workers.list(), within_s, "no worker reports")


@pytest.fixture
def bench(tmp_path: Path, valkey_server: ValkeyServer) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, valkey_server, stack)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_says_what_it_is_and_what_it_runs(bench: Bench, pool: str) -> None:
    process = bench.worker("-Q", "agents,council", "-P", pool, "-c", "3")
    idle = bench.report(lambda state: state.cpu_percent is not None)
    assert (idle.worker, idle.host, idle.pid) == (WORKER, socket.gethostname(), process.pid)
    assert (idle.pool, idle.slots, set(idle.queues)) == (pool, 3, {"agents", "council"})
    assert (idle.engine, idle.model, idle.jobs) == ("scripted", "parrot", ())
    assert idle.memory_mb is not None
    assert idle.host_memory_mb is not None
    assert 10 < idle.memory_mb < idle.host_memory_mb
    id = bench.submit()
    busy = bench.report(lambda state: len(state.jobs) == 2)
    assert {job.agent_id for job in busy.jobs} == {"agent-dev-001", "agent-dev-002"}
    [job, _] = busy.jobs
    assert (job.name, job.queue) == ("fleet.agent.answer", "agents")
    assert job.job_id == f"{id}.propose:0.{job.agent_id}"
    assert (job.deliberation_id, job.step, job.role, job.task_id) == (id, "propose:0", "DEV", "t1")
    found = bench.store.deliberations.get(id)
    assert found is not None
    assert found.started_at_ms is not None
    assert abs(job.started_at_ms - found.started_at_ms) < 5_000


def test_what_has_ended_is_counted_and_a_worker_without_agents_has_no_engine(bench: Bench) -> None:
    bench.worker("-Q", "council", "-P", "solo")
    idle = bench.report()
    assert (idle.engine, idle.model, idle.pool, idle.slots) == (None, None, "solo", 1)
    app = Celery("fleet.reporter.tests", broker=bench.valkey.url, set_as_current=False)
    for number in range(3):
        app.send_task("fleet.council.advance", args=(f"nobody-{number}",), queue="council")
    assert bench.report(lambda state: state.completed == 3).jobs == ()
    app.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_ends_takes_its_report_with_it(bench: Bench, number: int) -> None:
    process = bench.worker("-Q", "council", "-P", "threads", "-c", "1")
    bench.report()
    process.popen.send_signal(number)
    wait_until(lambda: not process.alive, what="the worker ended")
    assert bench.store.workers.list() == []
    assert bench.valkey.client().zcard("fleet:workers") == 0


def test_a_worker_that_ends_shows_what_it_still_runs_but_takes_nothing_new(bench: Bench) -> None:
    process = bench.worker("-Q", "agents", "-P", "threads", "-c", "2", FLEET_SCRIPTED_LATENCY_S="8")
    bench.submit()
    bench.report(lambda state: len(state.jobs) == 2)
    process.terminate()
    ending = bench.report(lambda state: state.queues == ())
    assert len(ending.jobs) == 2
    wait_until(lambda: not process.alive, what="the worker ended")
    assert bench.store.workers.list() == []


def test_the_report_of_a_killed_worker_ends_by_itself(bench: Bench) -> None:
    process = bench.worker("-Q", "council", "-P", "threads", "-c", "1")
    bench.report()
    process.kill()
    bench.await_none()


def test_a_worker_reports_again_when_valkey_is_back_and_complains_once(
    tmp_path: Path, new_valkey: Callable[..., ValkeyServer]
) -> None:
    valkey = new_valkey()
    with ExitStack() as stack:
        bench = Bench(tmp_path, valkey, stack)
        process = bench.worker("-Q", "council", "-P", "threads", "-c", "1")
        before = bench.report()
        wait_until(lambda: " ready." in process.output(), what="the worker consumes")  # before, it waits without a word
        valkey.kill()
        wait_until(lambda: "reporter.valkey_away" in process.output(), what="the worker noticed")
        wait_until(lambda: process.output().count("Trying again") > 1, what="others tried again meanwhile")
        valkey.start()
        bench.report(lambda state: state.at_ms > before.at_ms and state.pid == process.pid)
        assert process.output().count("reporter.valkey_away") == 1
        process.stop(10)
        assert bench.store.workers.list() == []
