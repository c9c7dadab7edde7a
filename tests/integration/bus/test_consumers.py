"""What becomes of an event: accepted once, kept as a dead letter, or delivered again until it can be handled."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from fleet.errors import Unavailable
from fleet.events import PLAN_APPROVED, STORY_TRANSITIONED
from fleet.models import PlanRequest, StoryTransition
from fleet.store import Store
from tests.harness import NatsServer, ValkeyServer, running, wait_until
from tests.integration.bus.harness import (
    PLANS,
    TRANSITIONS,
    Outside,
    Running,
    listener_process,
    plan_event,
    store_of,
    store_plan,
    transition_event,
)


def plan_ids(store: Store) -> set[str]:
    return {stored.plan.plan_id for stored in store.pages.plans(1000).items}


def ready(outside: Outside) -> None:
    wait_until(lambda: outside.consumer(PLANS) and outside.consumer(TRANSITIONS), what="the durables exist")


def test_plans_are_accepted_and_then_acknowledged(server: NatsServer, outside: Outside, store: Store) -> None:
    with Running(store, server.url):
        ready(outside)
        outside.publish(PLAN_APPROVED, *(plan_event(f"p-{number}") for number in range(200)))
        wait_until(lambda: outside.settled(PLANS, 200))
    assert plan_ids(store) == {f"p-{number}" for number in range(200)}
    assert store.pages.dead_letters(100).items == ()


def test_events_published_while_no_listener_runs_are_handled_when_one_does(
    server: NatsServer, outside: Outside, store: Store
) -> None:
    with Running(store, server.url):
        ready(outside)
    outside.publish(PLAN_APPROVED, plan_event("early"))
    with Running(store, server.url):
        wait_until(lambda: outside.settled(PLANS, 1))
    assert plan_ids(store) == {"early"}


def test_the_same_plan_twice_to_two_listeners_is_submitted_once(
    server: NatsServer, outside: Outside, store: Store
) -> None:
    with Running(store, server.url) as one, Running(store, server.url) as two:
        ready(outside)
        for _ in range(2):
            outside.publish(PLAN_APPROVED, *(plan_event(f"p-{number}") for number in range(50)))
        wait_until(lambda: outside.settled(PLANS, 100))
    handled = one.submissions + two.submissions
    assert len(handled) == 100
    assert sorted(plan_id for plan_id, created in handled if created) == sorted(f"p-{number}" for number in range(50))
    assert store.pages.dead_letters(100).items == ()


def test_transitions_reach_the_graph(server: NatsServer, outside: Outside, store: Store) -> None:
    with Running(store, server.url) as listener:
        ready(outside)
        outside.publish(STORY_TRANSITIONED, transition_event("s-7"))
        wait_until(lambda: outside.settled(TRANSITIONS, 1))
    assert [transition.story_id for transition in listener.transitions] == ["s-7"]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{not json", "not JSON"),
        (plan_event("p", roles=["DEV", "PILOT"]), "unknown role 'PILOT'"),
        (plan_event("p", approved_by=None), "approved_by"),
    ],
)
def test_what_can_never_succeed_is_a_dead_letter_in_valkey_and_in_its_stream(
    payload: bytes, reason: str, server: NatsServer, outside: Outside, store: Store
) -> None:
    with Running(store, server.url):
        ready(outside)
        outside.publish(PLAN_APPROVED, payload)
        wait_until(lambda: outside.settled(PLANS, 1))
        (letter,) = store.pages.dead_letters(100).items
        assert (letter.source, letter.payload) == (PLAN_APPROVED, payload.decode())
        assert reason in letter.reason
        (mirrored,) = wait_until(lambda: outside.messages("DEAD_LETTERS"))
    assert mirrored.subject == f"deadletter.{PLAN_APPROVED}"
    assert letter.dead_letter_id.encode() in (mirrored.data or b"")
    assert plan_ids(store) == set()


def test_a_plan_id_with_other_content_is_a_dead_letter_and_leaves_the_first_plan_alone(
    server: NatsServer, outside: Outside, store: Store
) -> None:
    with Running(store, server.url):
        ready(outside)
        outside.publish(PLAN_APPROVED, plan_event("p", title="first"))
        wait_until(lambda: outside.settled(PLANS, 1))
        outside.publish(PLAN_APPROVED, plan_event("p", title="second"))
        wait_until(lambda: outside.settled(PLANS, 2))
    (letter,) = store.pages.dead_letters(100).items
    assert "exists with other content" in letter.reason
    assert letter.attempts == 1
    assert [stored.plan.title for stored in store.pages.plans(100).items] == ["first"]


def test_an_event_that_fails_for_no_known_reason_is_tried_five_times_and_then_kept(
    server: NatsServer, outside: Outside, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.bus.consumers.delay_s", lambda *_, **__: 0.01)
    tries: list[str] = []

    def broken(plan: PlanRequest) -> None:
        tries.append(plan.plan_id)
        raise ZeroDivisionError("a bug")

    with Running(store, server.url, submit=broken):
        ready(outside)
        outside.publish(PLAN_APPROVED, plan_event("p"))
        wait_until(lambda: outside.settled(PLANS, 1))
    (letter,) = store.pages.dead_letters(100).items
    assert letter.attempts == len(tries) == 5
    assert "ZeroDivisionError: a bug" in letter.reason


def test_a_transition_waits_for_the_graph_as_long_as_it_takes(
    server: NatsServer, outside: Outside, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.bus.consumers.delay_s", lambda *_, **__: 0.01)
    tries: list[StoryTransition] = []

    def away(transition: StoryTransition) -> None:
        tries.append(transition)
        if len(tries) < 12:
            raise Unavailable("neo4j", "away")

    with Running(store, server.url, record=away):
        ready(outside)
        outside.publish(STORY_TRANSITIONED, transition_event("s"))
        wait_until(lambda: outside.settled(TRANSITIONS, 1))
    assert len(tries) == 12
    assert store.pages.dead_letters(100).items == ()


def test_nothing_is_lost_while_valkey_is_away(
    server: NatsServer, outside: Outside, new_valkey: Callable[[], ValkeyServer]
) -> None:
    valkey = new_valkey()
    with store_of(valkey) as store, Running(store, server.url) as listener:
        ready(outside)
        valkey.kill()
        outside.publish(PLAN_APPROVED, b"malformed", *(plan_event(f"p-{number}") for number in range(20)))
        wait_until(lambda: (info := outside.consumer(PLANS)) and info.num_redelivered, what="a plan was tried again")
        assert not listener.done.done()
        valkey.start()
        wait_until(lambda: outside.settled(PLANS, 21), timeout_s=60)
        assert plan_ids(store) == {f"p-{number}" for number in range(20)}
        assert len(store.pages.dead_letters(100).items) == 1


def test_work_that_outlasts_the_ack_wait_is_not_delivered_again(
    server: NatsServer, outside: Outside, store: Store
) -> None:
    calls: list[str] = []

    def slow(plan: PlanRequest) -> None:
        calls.append(plan.plan_id)
        time.sleep(3)

    with Running(store, server.url, submit=slow, ack_wait_s=2):
        ready(outside)
        outside.publish(PLAN_APPROVED, *(plan_event(f"p-{number}") for number in range(12)))  # more than run at once
        wait_until(lambda: outside.settled(PLANS, 12))
    assert sorted(calls) == sorted(f"p-{number}" for number in range(12))


def test_a_listener_killed_between_the_work_and_the_ack_gets_the_event_again_without_effect(
    server: NatsServer, outside: Outside, store: Store, valkey_server: ValkeyServer, tmp_path: Path
) -> None:
    died = tmp_path / "died"
    process = listener_process(tmp_path, valkey_server, server, DIE_ONCE_BEFORE_ACK=str(died), ACK_WAIT_S="2")
    with running(process):
        ready(outside)
        outside.publish(PLAN_APPROVED, plan_event("p"))
        wait_until(lambda: not process.alive)
    assert died.exists()
    assert plan_ids(store) == {"p"}
    assert not outside.settled(PLANS, 1)
    before = store.events.newest_id()
    with Running(store, server.url, ack_wait_s=2) as listener:
        wait_until(lambda: outside.settled(PLANS, 1))
    assert listener.submissions == [("p", False)]
    assert store.events.newest_id() == before


def test_a_listener_that_stops_ends_what_it_began_and_hands_back_the_rest(
    server: NatsServer, outside: Outside, store: Store
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def held(plan: PlanRequest) -> None:
        begun.release()
        go_on.wait(30)
        store_plan(store, plan)

    with Running(store, server.url, submit=held) as listener:
        ready(outside)
        outside.publish(PLAN_APPROVED, *(plan_event(f"p-{number}") for number in range(20)))
        for _ in range(8):
            assert begun.acquire(timeout=30)
        threading.Timer(0.5, go_on.set).start()
        listener.stop()
    assert len(plan_ids(store)) == 8
    info = outside.consumer(PLANS)
    assert info is not None
    assert info.ack_floor.stream_seq == 8
    with Running(store, server.url):
        wait_until(lambda: outside.settled(PLANS, 20))
    assert len(plan_ids(store)) == 20


def test_a_deleted_durable_is_made_again(server: NatsServer, outside: Outside, store: Store) -> None:
    with Running(store, server.url):
        ready(outside)
        outside.delete_consumer(PLANS)
        outside.publish(PLAN_APPROVED, plan_event("p"))
        wait_until(lambda: outside.settled(PLANS, 1))
    assert plan_ids(store) == {"p"}


def test_a_listener_starts_while_valkey_is_away_and_takes_up_work_when_it_is_there(
    server: NatsServer, outside: Outside, new_valkey: Callable[[], ValkeyServer]
) -> None:
    valkey = new_valkey()
    valkey.kill()
    with store_of(valkey) as store, Running(store, server.url):
        ready(outside)
        outside.publish(PLAN_APPROVED, plan_event("p"))
        with pytest.raises(redis.ConnectionError):
            plan_ids(store)
        valkey.start()
        wait_until(lambda: outside.settled(PLANS, 1), timeout_s=60)
        assert plan_ids(store) == {"p"}
