"""Which queue a role's work waits in, what its agents are asked with, and what waits while nobody serves it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from fleet.dispatch import FIRST_STEP, Dispatcher, lane, queue_for, slug
from fleet.models import Council, DeliberationRequest, Role, Task
from fleet.settings import Settings
from fleet.store import Part, Store
from fleet.tasks import agent
from fleet.tasks.watchdog import Watch
from fleet.valkey import install
from tests.harness import ValkeyServer

PROFILES: dict[str, Any] = {
    "QA": {"model": "Qwen/Qwen3-0.6B", "adapter": "qa-lora", "temperature": 0.5, "max_tokens": 3072},
    "DEV": {"adapter": "dev-lora"},
    "DATA": {"model": "org/default"},
}
QUEUE = "gpu.qwen-qwen3-0.6b"


class Desk:
    """Takes in work for a fleet with GPU workers, of which none runs."""

    def __init__(self, valkey: ValkeyServer, app: Celery):
        self.settings = Settings(
            valkey_url=valkey.url, agent_queue="gpu", gpu_model="org/default", profiles=PROFILES, nats_enabled=False
        )
        self.store, self.app = Store.from_settings(self.settings), app
        self.dispatcher = Dispatcher(self.store, self.settings, app)

    def submit(self, role: Role) -> Task:
        request = DeliberationRequest(task_description="Write it", role=role, num_agents=2)
        return self.store.deliberations.task(self.dispatcher.submit_deliberation(request)[0])

    def waiting(self, queue: str) -> int:
        return self.store.statistics.ready([queue])[queue]


@pytest.fixture
def desk(valkey_server: ValkeyServer) -> Iterator[Desk]:
    app = Celery("fleet.models.tests", set_as_current=False)
    app.conf.update(broker_url=valkey_server.url, result_backend=f"fleet.valkey.backend:Backend+{valkey_server.url}")
    install(app)
    made = Desk(valkey_server, app)
    yield made
    made.store.close()
    app.close()


def test_the_default_models_work_goes_to_gpu_and_another_models_to_a_queue_of_its_own(desk: Desk) -> None:
    asked = {role: desk.submit(role).queue for role in (Role.DEV, Role.DATA, Role.QA)}
    assert asked == {Role.DEV: "gpu", Role.DATA: "gpu", Role.QA: QUEUE}
    assert (desk.waiting("gpu"), desk.waiting(QUEUE)) == (4, 2)
    assert desk.store.queues.models()[QUEUE] == "Qwen/Qwen3-0.6B"


def test_a_fleet_without_gpu_workers_has_one_queue_for_all_models(desk: Desk) -> None:
    assert queue_for("Qwen/Qwen3-0.6B", desk.settings.model_copy(update={"agent_queue": "agents"})) == "agents"


@pytest.mark.parametrize(
    ("model", "named"), [("Qwen/Qwen3-0.6B", "qwen-qwen3-0.6b"), ("Qwen/Qwen3-0.6B_x", "qwen-qwen3-0.6b-x-[0-9a-f]{6}")]
)
def test_a_models_name_becomes_part_of_a_queues(model: str, named: str) -> None:
    assert re.fullmatch(named, slug(model))


def test_models_whose_names_differ_in_signs_alone_have_queues_of_their_own() -> None:
    assert len({slug(name) for name in ("a/b-c", "a/b_c", "a/b c", "模型", "型模")}) == 5


def test_what_waits_for_a_model_that_nobody_serves_is_kept_and_its_clock_does_not_run(desk: Desk) -> None:
    task = desk.submit(Role.QA)
    found = desk.store.deliberations.get(task.deliberation_id)
    assert found is not None
    assert (found.status, found.started_at_ms, found.queue) == ("PENDING", None, QUEUE)


def test_a_part_lost_from_the_queue_of_another_model_is_published_there_again(desk: Desk) -> None:
    task = desk.submit(Role.QA)
    desk.store.client.delete(lane(QUEUE, FIRST_STEP))
    for one in task.agents:
        part = Part(task.deliberation_id, FIRST_STEP, one)
        desk.store.client.zincrby(f"fleet:unstarted:{lane(QUEUE, FIRST_STEP)}", -60_000, part.id)
    Watch(desk.store, desk.dispatcher, desk.app, desk.settings).once()
    assert (desk.waiting(QUEUE), desk.waiting("gpu")) == (2, 0)


def test_a_profile_says_what_the_agents_are_asked_with(desk: Desk) -> None:
    task = desk.submit(Role.QA)
    asked = [
        agent._generation(Part(task.deliberation_id, FIRST_STEP, one), task, 60.0, Settings())[0] for one in task.agents
    ]
    assert [(one.model, one.adapter, one.max_tokens) for one in asked] == [("Qwen/Qwen3-0.6B", "qa-lora", 3072)] * 2
    assert [one.temperature for one in asked] == [0.5, 0.5 * agent.SPREAD]


def test_a_councils_own_model_goes_before_the_profiles_and_has_not_its_adapter(desk: Desk) -> None:
    desk.store.councils.ensure(Council.of(Role.QA, 2, "org/other", "vllm"))
    task = desk.submit(Role.QA)
    assert (task.model, task.adapter, task.queue) == ("org/other", None, "gpu.org-other")


def test_a_replay_goes_where_the_model_is_served_now(desk: Desk) -> None:
    task = desk.submit(Role.QA)
    served = Dispatcher(desk.store, desk.settings.model_copy(update={"gpu_model": "Qwen/Qwen3-0.6B"}), desk.app)
    assert desk.store.deliberations.task(served.replay(task)).queue == "gpu"
