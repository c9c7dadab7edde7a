"""While Neo4j is away one thread of a worker tries it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fleet.errors import Unavailable
from fleet.tasks.graph import OneTries


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def fail(tries: OneTries) -> None:
    with tries.here():
        raise Unavailable("neo4j", "connection refused")


def hold(tries: OneTries, inside: threading.Event, until: threading.Event) -> None:
    with tries.here():
        inside.set()
        assert until.wait(30)


def test_while_it_is_away_the_others_do_not_wait_for_the_one_that_tries(pool: ThreadPoolExecutor) -> None:
    tries, inside, until = OneTries(), threading.Event(), threading.Event()
    with pytest.raises(Unavailable):
        fail(tries)
    trying = pool.submit(hold, tries, inside, until)
    assert inside.wait(30)
    with pytest.raises(Unavailable, match="connection refused"), tries.here():
        pytest.fail("a second one tries")
    until.set()
    trying.result(30)
    with tries.here():
        """It is back: everybody may."""


def test_as_long_as_it_is_there_all_write_at_once(pool: ThreadPoolExecutor) -> None:
    tries, until = OneTries(), threading.Event()
    inside = [threading.Event(), threading.Event()]
    writing = [pool.submit(hold, tries, one, until) for one in inside]
    assert all(one.wait(30) for one in inside)
    until.set()
    for one in writing:
        one.result(30)


def test_after_a_try_that_failed_the_next_one_may_try() -> None:
    tries = OneTries()
    assert not tries.away
    with pytest.raises(Unavailable):
        fail(tries)
    assert tries.away
    with pytest.raises(ZeroDivisionError), tries.here():
        raise ZeroDivisionError
