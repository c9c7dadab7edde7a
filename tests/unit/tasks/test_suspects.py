"""Which parts run at the same time after deaths that some of them were in."""

import threading
from collections.abc import Callable

import pytest

from fleet.tasks.suspects import GROUP, Suspects
from tests.harness import wait_until

MOST = 3


class Run:
    """A part in a thread of its own, which runs until it is told to end."""

    def __init__(self, gate: Suspects, deaths: int, wanted: Callable[[], bool] = lambda: True):
        self._end = threading.Event()
        self.began, self.admitted = threading.Event(), False
        self._thread = threading.Thread(target=self._run, args=(gate, deaths, wanted), daemon=True)
        self._thread.start()

    def _run(self, gate: Suspects, deaths: int, wanted: Callable[[], bool]) -> None:
        with gate.admitted(deaths, MOST, wanted) as self.admitted:
            self.began.set()
            if self.admitted:
                self._end.wait(30)

    def end(self) -> None:
        self._end.set()
        self._thread.join(30)


@pytest.fixture
def gate() -> Suspects:
    return Suspects()


def begun(*runs: Run) -> None:
    wait_until(lambda: all(run.began.is_set() for run in runs), 10, "all of them run")


def waiting(gate: Suspects) -> int:
    return gate._waiting_alone


def test_parts_without_deaths_run_together(gate: Suspects) -> None:
    runs = [Run(gate, 0) for _ in range(3 * GROUP)]
    begun(*runs)
    for run in runs:
        run.end()


def test_parts_that_were_in_a_death_run_in_small_groups(gate: Suspects) -> None:
    first = [Run(gate, 1) for _ in range(GROUP)]
    begun(*first)
    fresh, more = Run(gate, 0), Run(gate, 1)
    begun(fresh)
    assert not more.began.is_set()
    first[0].end()
    begun(more)
    for run in (*first, fresh, more):
        run.end()


def test_a_part_one_death_from_its_end_runs_alone_and_new_ones_do_not_keep_it_waiting(gate: Suspects) -> None:
    running = Run(gate, 0)
    begun(running)
    suspect = Run(gate, MOST - 1)
    wait_until(lambda: waiting(gate), 10, "it waits")
    later = Run(gate, 0)
    assert not suspect.began.is_set()
    running.end()
    begun(suspect)
    assert not later.began.is_set()
    suspect.end()
    begun(later)
    later.end()


def test_a_part_that_nobody_wants_any_more_stops_waiting_and_is_in_nobodys_way(gate: Suspects) -> None:
    running = Run(gate, 0)
    begun(running)
    suspect = Run(gate, MOST - 1, wanted=lambda: False)
    begun(suspect)
    assert not suspect.admitted
    fresh = Run(gate, 0)
    begun(fresh)
    for run in (running, fresh):
        run.end()
