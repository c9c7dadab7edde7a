"""No room for more work: events wait in the stream, none becomes a dead letter, and they go on when there is room."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fleet.bus.commits import Commits
from fleet.events import PLAN_APPROVED, STORY_TRANSITIONED, DeliberationFinished
from fleet.models import Decision, Status
from fleet.store import Store
from tests.harness import NatsServer, ValkeyServer, wait_until
from tests.integration.bus.harness import PLANS, Outside, Running, plan_event, transition_event
from tests.integration.trouble.unsynced import confirm_again, stop_confirming

EVENTS = 60


@pytest.fixture
def limited(valkey_server: ValkeyServer) -> Iterator[Store]:
    store = Store(valkey_server.client(), queue_limit=20)
    yield store
    store.close()


@pytest.fixture
def quick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.bus.consumers.delay_s", lambda *_, **__: 0.1)


def ready(outside: Outside) -> None:
    wait_until(lambda: outside.consumer(PLANS), what="the durable exists")


def cancel(store: Store, id: str) -> None:
    """Ends a deliberation as the dispatcher does."""
    task = store.deliberations.task(id)
    decision = Decision(
        deliberation_id=id, task=task, status=Status.CANCELLED, reason="enough", decided_at_ms=task.created_at_ms
    )
    about = task.model_dump(include={"deliberation_id", "task_id", "role", "plan_id", "story_id"})
    assert store.deliberations.cancel(
        decision, "propose:0", 0, DeliberationFinished(**about, status="CANCELLED", reason="enough")
    )


@pytest.mark.usefixtures("quick_again")
def test_beyond_the_limit_events_wait_and_go_on_when_there_is_room(
    server: NatsServer, outside: Outside, limited: Store
) -> None:
    with Running(limited, server.url) as listener:
        ready(outside)
        outside.publish(PLAN_APPROVED, *(plan_event(f"p-{number}") for number in range(EVENTS)))
        wait_until(
            lambda: limited.statistics.read().totals.refused_full > 40, what="events are refused again and again"
        )
        assert limited.statistics.read().open == 20
        outside.publish(PLAN_APPROVED, plan_event(listener.submissions[0][0]))
        for accepted in (40, EVENTS):
            for id in waiting(limited):
                cancel(limited, id)
            wait_until(lambda accepted=accepted: limited.statistics.read().totals.accepted == accepted)
        wait_until(lambda: outside.settled(PLANS, EVENTS + 1))
    assert limited.pages.dead_letters(10).items == ()


def waiting(store: Store) -> list[str]:
    return [one.deliberation_id for one in store.pages.deliberations(100, matching={"status": "PENDING"}).items]


def test_a_full_fleet_leaves_events_in_the_stream(
    server: NatsServer, outside: Outside, limited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched is given back and no more of it is fetched, while other events are."""
    monkeypatch.setattr("fleet.bus.consumers.delay_s", lambda *_, **__: 60.0)
    with Running(limited, server.url) as listener:
        ready(outside)
        outside.publish(PLAN_APPROVED, *(plan_event(f"p-{number}") for number in range(500)))
        wait_until(lambda: limited.statistics.read().totals.refused_full)
        outside.publish(STORY_TRANSITIONED, *(transition_event(f"s-{number}") for number in range(300)))
        wait_until(lambda: len(listener.transitions) == 300)
        found: Any = outside.consumer(PLANS)
        assert found.delivered.stream_seq < 200
        assert found.num_ack_pending + found.num_pending == 480


@pytest.mark.parametrize("kind", ["plan", "dead letter"])
@pytest.mark.usefixtures("quick_again")
def test_with_fsync_nothing_is_acknowledged_before_it_is_on_disk(
    kind: str,
    server: NatsServer,
    outside: Outside,
    new_valkey: Callable[..., ValkeyServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fleet.store.durability._TIMEOUT_MS", 100)
    valkey = new_valkey("--appendfsync", "always")
    store = Store(valkey.client(), fsync=True)
    stop_confirming(valkey)
    payload = plan_event("p") if kind == "plan" else b"{not json"
    with Running(store, server.url):
        ready(outside)
        outside.publish(PLAN_APPROVED, payload)
        stored = store.pages.plans if kind == "plan" else store.pages.dead_letters
        wait_until(lambda: stored(10).items)
        wait_until(lambda: store.client.info("commandstats").get("cmdstat_waitaof", {}).get("calls", 0) > 2)
        assert not outside.settled(PLANS, 1)
        confirm_again(valkey)
        wait_until(lambda: outside.settled(PLANS, 1))
        assert len(stored(10).items) == 1
    store.close()


def test_with_fsync_many_events_share_a_wait_for_the_disk(
    server: NatsServer,
    outside: Outside,
    new_valkey: Callable[..., ValkeyServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(new_valkey("--appendfsync", "always").client(), fsync=True)
    worked_on, disk, done, confirm = [], threading.Event(), Commits.done, store.durability.confirm

    async def noted(commits: Commits) -> None:
        worked_on.append(commits)
        await done(commits)

    def slowly() -> None:
        assert disk.wait(60)
        confirm()

    monkeypatch.setattr(Commits, "done", noted)
    monkeypatch.setattr(store.durability, "confirm", slowly)
    with Running(store, server.url):
        ready(outside)
        outside.publish(PLAN_APPROVED, *(plan_event(f"p-{number}") for number in range(16)))  # it takes all at once
        wait_until(lambda: len(worked_on) == 16, what="all wait for the disk")
        disk.set()
        wait_until(lambda: outside.settled(PLANS, 16))
        waits: Any = store.client.info("commandstats")
        assert waits["cmdstat_waitaof"]["calls"] <= 2  # the first event's, and one for all that came meanwhile
    store.close()
