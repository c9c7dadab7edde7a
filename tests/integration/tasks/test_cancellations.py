"""How parts that run in a process hear that nobody wants their answers any more."""

from collections.abc import Iterator

import pytest

from fleet.engines.base import Cancellation
from fleet.settings import Settings
from fleet.store import Attempt, Part, Store
from fleet.tasks.cancellations import Cancellations
from tests.harness import ValkeyServer, wait_until

PART = Part("unknown", "propose:0", "agent-dev-001")  # nobody wants a part of a deliberation that there is not
FIRST, SECOND, THIRD = (Attempt(PART, id) for id in ("a1", "a2", "a3"))


@pytest.fixture
def store(valkey_server: ValkeyServer) -> Iterator[Store]:
    store = Store.from_settings(Settings(valkey_url=valkey_server.url))
    yield store
    store.close()


def told(*given: Cancellation) -> bool:
    return bool(wait_until(lambda: all(one.is_set() for one in given), what="told"))


def test_both_runs_of_a_part_that_runs_twice_are_told_and_end_one_by_one(store: Store) -> None:
    cancellations = Cancellations()
    with cancellations.of(FIRST, store) as first:
        with cancellations.of(SECOND, store) as second:
            assert told(first, second)
        with cancellations.of(THIRD, store) as third:
            assert told(third)


def test_one_that_cannot_be_told_does_not_keep_the_others_from_hearing(store: Store) -> None:
    cancellations = Cancellations()
    with cancellations.of(FIRST, store) as broken:
        broken.when_set(lambda: 1 / 0)
        assert told(broken)
    with cancellations.of(FIRST, store) as next_one:
        assert told(next_one)


def test_nothing_is_watched_once_nothing_runs(store: Store) -> None:
    cancellations = Cancellations()
    with cancellations.of(FIRST, store):
        assert cancellations._thread is not None
    wait_until(lambda: cancellations._thread is None, what="the thread ends")
