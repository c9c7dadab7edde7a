"""Closing a step: what happens when the code that decides crashes, or ValKey is away meanwhile."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from fleet import checks
from fleet.events import DeliberationStarted
from fleet.models import Answer, Role, Status, Task
from fleet.settings import Settings
from fleet.store import RECORD, Attempt, Part, Store
from fleet.tasks import council, process
from fleet.tasks.deaths import counted
from fleet.tasks.runtime import Runtime
from fleet.tasks.suspects import suspects
from tests.harness import ValkeyServer

AGENT = "agent-dev-001"
CONTENT = {"summary": "s", "approach": "a", "steps": ["s"], "artifacts": [], "risks": [], "confidence": 50}


@pytest.fixture
def store(valkey_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    runtime = Runtime(Settings.model_validate({"valkey_url": valkey_server.url}))
    monkeypatch.setattr(process, "_runtime", runtime)
    yield runtime.store
    runtime.close()


def answered(store: Store) -> Task:
    """A deliberation of one agent that has answered."""
    task = Task(
        deliberation_id="d1", role=Role.DEV, task_id="t1", task_description="Write it", rounds=0, agents=(AGENT,),
        timeout_ms=60_000, created_at_ms=1,
    )  # fmt: skip
    part = Part("d1", "propose:0", AGENT)
    store.submissions.add_deliberation(task, "digest")
    store.deliberations.open_step(task, "propose:0", [AGENT], "agents", "agents")
    started = DeliberationStarted(deliberation_id="d1", task_id="t1", role=Role.DEV, status="IN_PROGRESS")
    store.deliberations.start_part(Attempt(part, "a1"), "agents", 3, started)
    store.deliberations.record_answer(part, Answer(agent_id=AGENT, step=part.step, content=CONTENT, created_at_ms=1))
    return task


def test_a_closed_step_becomes_a_frozen_decision(store: Store) -> None:
    answered(store)
    council._close("d1", "propose:0")
    decision = store.deliberations.decision("d1")
    assert decision is not None
    assert (decision.status, decision.winner_id) == (Status.COMPLETED, AGENT)
    council._close("d1", "propose:0")
    assert store.deliberations.decision("d1") == decision


def test_a_decision_that_keeps_crashing_ends_as_a_failed_one_and_a_dead_letter(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(store)

    def crash(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(checks, "check", crash)
    for _ in range(council.DECIDING_ATTEMPTS - 1):
        with pytest.raises(ZeroDivisionError):
            council._close("d1", "propose:0")
        assert store.deliberations.decision("d1") is None
    council._close("d1", "propose:0")
    decision = store.deliberations.decision("d1")
    assert decision is not None
    assert decision.status is Status.FAILED
    assert "a bug" in (decision.error_message or "")
    assert [letter.source for letter in store.pages.dead_letters(100).items] == ["council"]


def test_a_sealed_step_whose_worker_died_is_due_again(store: Store) -> None:
    answered(store)
    store.deliberations.settle("d1")
    assert store.deliberations.seal_step("d1", "propose:0")
    assert store.client.zscore("fleet:due", "d1") is not None
    where = store.deliberations.where("d1")
    assert where is not None
    assert where.sealed
    assert where.step != RECORD


def test_a_step_that_is_over_while_another_task_is_at_the_deliberation_stays_due(store: Store) -> None:
    answered(store)
    other = Attempt(Part.of_council("d1"), "another")
    store.deliberations.start_council(other, 3)
    council.close_step([], "d1", "propose:0")
    store.deliberations.settle("d1", "propose:0")  # as the other one does when it has opened the step
    store.deliberations.give_back(other, died=False)
    assert store.client.zscore("fleet:due", "d1") is not None
    where = store.deliberations.where("d1")
    assert where is not None
    assert where.sealed


def test_a_task_that_is_one_death_from_being_given_up_runs_alone(store: Store) -> None:
    answered(store)
    one = Attempt(Part.of_council("d1"), "a1")
    for known in range(2):
        store.deliberations.start_council(one, 3, deaths=known)
        store.deliberations.give_back(one, died=True)
    with counted(one) as (verdict, deaths):
        assert (verdict, len(deaths)) == ("run", 2)
        with suspects.admitted(0, 3, lambda: False) as bystander:
            assert not bystander
    with suspects.admitted(0, 3, lambda: False) as bystander:
        assert bystander


def test_a_task_waits_for_a_valkey_that_is_away(new_valkey: Callable[..., ValkeyServer]) -> None:
    server = new_valkey()
    store = Store(server.client())
    server.kill()
    tried = threading.Event()

    @process.patient
    def ping() -> bool:
        try:
            return bool(store.client.ping())
        except ConnectionError:
            tried.set()
            raise

    restarted = threading.Thread(target=lambda: tried.wait(30) and server.start())
    restarted.start()
    assert ping()
    restarted.join()
    assert tried.is_set()
