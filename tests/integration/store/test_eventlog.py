"""The event log, its relay's lease and cursor, and dead letters, on a real Valkey."""

import pytest

from fleet.models import digest
from fleet.store import Store
from tests.harness import ValkeyServer


@pytest.fixture
def store(valkey_server: ValkeyServer) -> Store:
    return Store(valkey_server.client())


def test_a_dead_letter_is_kept_once_and_its_event_is_logged_once(store: Store) -> None:
    letters = [store.dead_letters.add("planning.plan.approved", "not JSON", "{") for _ in range(3)]
    assert len({letter.dead_letter_id for letter in letters}) == 1
    assert [letter.payload for letter in store.pages.dead_letters(100).items] == ["{"]
    assert [event.subject for event in store.events.read()] == ["deadletter.planning.plan.approved"]


def test_the_log_is_read_on_from_an_id(store: Store) -> None:
    for number in range(5):
        store.dead_letters.add("source", "reason", str(number))
    first = store.events.read(count=2)
    rest = store.events.read(first[-1].id)
    assert [event.id for event in first + rest] == sorted({event.id for event in store.events.read()})


def test_one_holder_at_a_time_has_the_lease(store: Store) -> None:
    assert store.events.lease("a", 60_000)
    assert not store.events.lease("b", 60_000)
    store.events.release("b")
    assert not store.events.lease("b", 60_000)
    store.events.release("a")
    assert store.events.lease("b", 60_000)


def test_who_lost_the_lease_cannot_move_the_cursor(store: Store) -> None:
    store.events.lease("a", 60_000)
    assert store.events.advance("a", "5-0")
    assert not store.events.advance("b", "9-0")
    assert store.events.cursor() == "5-0"


def test_the_log_is_trimmed_only_behind_the_cursor(store: Store) -> None:
    for number in range(1_500):
        store.client.xadd("fleet:events", {"subject": "s", "payload": "{}"}, id=f"{number + 1}-0")
    store.events.lease("a", 60_000)
    store.events.advance("a", "1000-0", keep=100)
    left = store.events.read(count=2_000)
    assert left[0].id == "901-0"
    assert left[-1].id == "1500-0"


def test_attempts_at_a_message_are_counted_apart(store: Store) -> None:
    assert [store.dead_letters.count_attempt("s", "1") for _ in range(3)] == [1, 2, 3]
    assert store.dead_letters.count_attempt("s", "2") == 1


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
