"""Two workers, one ValKey, and a server that fails: their work waits for it, and nothing of it is lost."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from fleet.dispatch import Dispatcher
from fleet.engines.conform import conform
from fleet.models import Constraints, Decision, DeliberationRequest, Role, Status
from fleet.settings import Settings
from fleet.stack.celery_worker import CeleryWorker
from fleet.stack.process import start_all
from fleet.store import Store
from fleet.store.breakers import BreakerState
from fleet.valkey import install
from tests.harness import ValkeyServer, wait_until
from tests.unit.engines.openai_server import Server, completion, error, says, streams

TIMEOUT_S = 60
BUSY = says(error("no room"), 503)


def well(handler: BaseHTTPRequestHandler) -> None:
    """Answers what was asked for."""
    schema = handler.asked["response_format"]["json_schema"]["schema"]  # type: ignore[attr-defined]
    streams(*completion(json.dumps(conform(schema, None, lambda options, _: options[0]))))(handler)


class Bench:
    """A fleet that nobody records: its decisions stay in ValKey."""

    def __init__(self, folder: Path, stack: ExitStack):
        self.valkey, self.server = ValkeyServer(folder / "valkey"), Server()
        self.valkey.start()
        stack.callback(self.valkey.stop)
        stack.enter_context(self.server.serving())
        self.app = Celery("fleet.breaker.tests", set_as_current=False)
        self.app.conf.update(
            broker_url=self.valkey.url, result_backend=f"fleet.valkey.backend:Backend+{self.valkey.url}"
        )
        install(self.app)
        stack.callback(self.app.close)
        settings = Settings(valkey_url=self.valkey.url, nats_enabled=False)
        self.store = Store.from_settings(settings)
        stack.callback(self.store.close)
        self.dispatcher = Dispatcher(self.store, settings, self.app)
        self.workers = [self._worker(name, folder) for name in ("one", "two")]
        for worker in self.workers:
            stack.callback(worker.kill)
        start_all(self.workers)

    def _worker(self, name: str, folder: Path) -> CeleryWorker:
        env = {
            "FLEET_VALKEY_URL": self.valkey.url,
            "FLEET_NATS_ENABLED": "false",
            "FLEET_NEO4J_URI": "bolt://127.0.0.1:1",
            "FLEET_ENGINE": "openai",
            "FLEET_ENGINE_URL": self.server.url,
            "FLEET_MODEL": "m",
            "FLEET_ENGINE_RETRIES": "1",
            "FLEET_BREAKER_FAILURES": "3",
            "FLEET_BREAKER_OPEN_S": "0.5",
            "FLEET_LOG_FORMAT": "json",
        }
        options = ["-Q", "agents,council", "-P", "threads", "-c", "32"]
        return CeleryWorker(name, "fleet", options, folder / f"{name}.log", {**os.environ, **env})

    def submit(self, timeout_s: int = TIMEOUT_S) -> str:
        constraints = Constraints(timeout_seconds=timeout_s)
        request = DeliberationRequest(
            task_description="Write it", role=Role.DEV, rounds=0, num_agents=3, constraints=constraints
        )
        return self.dispatcher.submit_deliberation(request)[0]

    def submit_until_held(self, worker: str, least: int) -> list[str]:
        """Deliberations that wait, `least` or more of them: nothing spreads their parts over the workers."""
        ids: list[str] = []
        while len(ids) < least or not any(self.jobs(id, worker) for id in ids):
            assert len(ids) < 10, f"{worker} gets no part, and one worker cannot hold more"
            ids.append(self.submit())
            self.waits(ids[-1])
        return ids

    def waits(self, id: str) -> None:
        """Returns once the breaker is open and the deliberation waits for it, its clock standing."""
        wait_until(lambda: self.breaker.state == "open", 60, "the breaker opens")
        wait_until(lambda: id in self.store.breakers.waiting(self.breaker.endpoint), 60, "it waits")
        wait_until(lambda: self.jobs(id) == 3 and self.stands(id), 60, "all parts wait and the clock stands")

    def decided(self, id: str) -> Decision:
        return wait_until(lambda: self.store.deliberations.decision(id), 60, "it is decided")  # type: ignore[return-value]

    @property
    def breaker(self) -> BreakerState:
        [found] = wait_until(self.store.breakers.list, what="the breaker is known")
        return found

    def jobs(self, id: str, worker: str = "") -> int:
        """Parts of the deliberation that workers hold."""
        states = [state for state in self.store.workers.list() if state.worker.startswith(worker)]
        return sum(job.deliberation_id == id for state in states for job in state.jobs)

    def stands(self, id: str) -> bool:
        return self.store.client.hget(f"fleet:deliberation:{id}", "deadline_ms") == "0"

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = "\n".join(worker.log.read_text() for worker in self.workers).splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in found if event["event"] == name]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path_factory.mktemp("breaker"), stack)


@pytest.fixture(autouse=True)
def closed(bench: Bench) -> Iterator[None]:
    """Each test begins and ends with a server that answers and knows of no failure."""
    bench.server.answer = well
    bench.store.client.delete(f"fleet:breaker:{bench.server.url.split('/')[2]}")
    yield
    bench.server.answer = well
    bench.store.client.delete("fleet:due")  # what is decided need not be recorded


def test_an_outage_longer_than_a_deliberations_time_costs_no_proposal(bench: Bench) -> None:
    bench.server.answer = BUSY
    timeout_s = 8
    id = bench.submit(timeout_s)
    bench.waits(id)
    begun = bench.store.deliberations.get(id)
    assert begun is not None
    assert begun.started_at_ms is not None
    over_ms = begun.started_at_ms + timeout_s * 1000 + 2000
    wait_until(lambda: bench.store.deliberations.now_ms() > over_ms, what="its time would be over")
    where = bench.store.deliberations.where(id)
    assert where is not None
    assert (where.step, where.sealed) == ("propose:0", False)
    bench.server.answer = well
    decision = bench.decided(id)
    assert decision.status is Status.COMPLETED
    assert (len(decision.results), decision.failures) == (3, ())
    assert decision.decided_at_ms > over_ms
    assert bench.breaker.state == "closed"
    deaths = [json.loads(one)["deaths"] for one in bench.store.client.hvals(f"fleet:deliberation:{id}:attempts")]
    assert set(deaths) == {0}


def test_each_change_of_state_is_one_line_and_one_request_at_a_time_tries(bench: Bench) -> None:
    before = {name: len(bench.events(f"breaker.{name}")) for name in ("open", "half_open", "closed")}
    bench.server.answer = BUSY
    id = bench.submit()
    bench.waits(id)
    wait_until(lambda: len(bench.events("breaker.half_open")) >= before["half_open"] + 2, 60, "two tries")
    bench.server.answer = well
    bench.decided(id)
    lines = {name: bench.events(f"breaker.{name}")[before[name] :] for name in before}
    assert len(lines["closed"]) == 1
    # Each try failed but the last, and one opened at first; one that was silent for long was taken over.
    assert len(lines["half_open"]) >= len(lines["open"]) >= 2
    [endpoint] = {event["endpoint"] for events in lines.values() for event in events}
    assert endpoint == bench.breaker.endpoint
    for event in lines["open"]:
        assert all(part in event["reason"] for part in (endpoint, "HTTP 503", "no room", "(2 tries)"))
        assert event["next_try_in_s"] > 0


def test_a_deliberation_that_waits_can_be_cancelled(bench: Bench) -> None:
    bench.server.answer = BUSY
    id = bench.submit()
    bench.waits(id)
    bench.dispatcher.cancel(id)
    wait_until(lambda: bench.jobs(id) == 0, 60, "its parts end")
    found = bench.store.deliberations.get(id)
    assert found is not None
    assert found.status == "CANCELLED"


def test_one_that_is_asked_while_the_breaker_is_open_begins_when_it_is_closed(bench: Bench) -> None:
    bench.server.answer = BUSY
    first = bench.submit()
    bench.waits(first)
    asked = len(bench.server.bodies)
    second = bench.submit()
    wait_until(lambda: bench.jobs(second) == 3, 60, "workers have its parts")
    wait_until(lambda: len(bench.server.bodies) > asked, 60, "a part tries")
    bench.server.answer = well
    assert [bench.decided(id).status for id in (first, second)] == [Status.COMPLETED] * 2


def test_a_worker_that_is_to_end_gives_back_what_waits(bench: Bench) -> None:
    bench.server.answer = BUSY
    ids = bench.submit_until_held("one@", least=3)
    one, _ = bench.workers
    assert one.stop(60) == 0, "it had to be killed"
    bench.server.answer = well
    one.start()
    for id in ids:
        decision = bench.decided(id)
        assert (decision.status, len(decision.results)) == (Status.COMPLETED, 3)


def test_what_a_killed_worker_waited_with_waits_on_elsewhere(bench: Bench) -> None:
    bench.server.answer = BUSY
    ids = bench.submit_until_held("one@", least=2)
    one, _ = bench.workers
    one.kill()
    wait_until(lambda: all(bench.jobs(id, "two@") == 3 for id in ids), 60, "the other has them all")
    assert not any(bench.store.deliberations.decision(id) for id in ids)
    bench.server.answer = well
    for id in ids:
        decision = bench.decided(id)
        assert (decision.status, len(decision.results)) == (Status.COMPLETED, 3)
    one.start()


def test_nothing_crashed_meanwhile(bench: Bench) -> None:
    logs = "\n".join(worker.log.read_text() for worker in bench.workers)
    assert "Traceback" not in logs
