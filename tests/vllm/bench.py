"""Hands parts to real GPU workers through the broker, as the API does, and reads what comes of them."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from celery import Celery

from fleet.cluster import WorkerState
from fleet.dispatch import Dispatcher
from fleet.models import Answer, Constraints, DeliberationRequest, Role
from fleet.settings import Settings
from fleet.store import Store
from fleet.valkey import install
from tests.harness import ValkeyServer, wait_until

STEP = "propose:0"
ANSWERED_S = 240.0


class Bench:
    """The accepting side of a fleet; nobody closes the steps, so that answers stay as they came."""

    def __init__(self, valkey: ValkeyServer, stack: ExitStack, **settings: Any):
        self.valkey = valkey
        self.settings = Settings(valkey_url=valkey.url, agent_queue="gpu", **settings)
        self.store = Store.from_settings(self.settings)
        stack.callback(self.store.close)
        app = Celery("fleet.vllm.tests", set_as_current=False)
        stack.callback(app.close)
        app.conf.update(broker_url=valkey.url, result_backend=f"fleet.valkey.backend:Backend+{valkey.url}")
        install(app)
        self.dispatcher = Dispatcher(self.store, self.settings, app)

    def submit(self, text: str = "Write a cache with a size limit", agents: int = 1, **constraints: Any) -> str:
        """One deliberation without rounds; returns its id."""
        given = Constraints(**{"timeout_seconds": 600, **constraints})
        request = DeliberationRequest(
            task_description=text, role=Role.DEV, num_agents=agents, rounds=0, constraints=given
        )
        return self.dispatcher.submit_deliberation(request)[0]

    def answers(self, id: str) -> list[Answer]:
        return list(self.store.deliberations.answers(id).get(STEP, {}).values())

    def answered(self, id: str, count: int = 1, within_s: float = ANSWERED_S) -> list[Answer]:
        """The answers, once there are as many."""
        wait_until(lambda: len(self.answers(id)) >= count, within_s, f"{count} answers")
        return self.answers(id)

    def report(self, wanted: Callable[[WorkerState], Any], within_s: float = 60, what: str = "a report") -> WorkerState:
        """The first worker's report that is as wanted."""

        def look() -> WorkerState | None:
            return next((state for state in self.store.workers.list() if wanted(state)), None)

        found = wait_until(look, within_s, what)
        assert found is not None
        return found

    def await_running(self, count: int, within_s: float = 60) -> WorkerState:
        """The report of a worker with so many requests in its engine's batch."""
        return self.report(lambda one: running(one) == count, within_s, f"{count} requests in the batch")

    def ends(self, id: str) -> list[str]:
        """Subjects of the events that say how the parts ended."""
        found = self.store.events.read("0", 1000, deliberation_id=id)
        ended = ("orchestration.task.completed", "orchestration.task.failed")
        return [event.subject for event in found if event.subject in ended]

    def results(self, id: str) -> list[dict[str, Any]]:
        """The payloads of agent.results."""
        found = self.store.events.read("0", 1000, deliberation_id=id)
        return [json.loads(event.payload) for event in found if event.subject.startswith("agent.results.")]


def running(state: WorkerState) -> int | None:
    return state.engine_state.running if state.engine_state else None


@contextmanager
def open_bench(valkey: ValkeyServer, **settings: Any) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(valkey, stack, **settings)
