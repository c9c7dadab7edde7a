"""What all workers know of a server that engines ask, on a real ValKey."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from fleet.events import DeliberationStarted
from fleet.models import Role, Task
from fleet.settings import Settings
from fleet.store import Attempt, Part, Store
from fleet.store import breakers as module
from fleet.store.breakers import BreakerState, Limits
from tests.harness import ValkeyServer, wait_until

HOST = "127.0.0.1:8000"
AGENTS = ("agent-dev-001", "agent-dev-002", "agent-dev-003")
LIMITS = Limits(failures=3, open_ms=60_000)
AT_ONCE = Limits(failures=1, open_ms=1)
DAY_MS = 86_400_000


@pytest.fixture
def store(valkey_server: ValkeyServer) -> Iterator[Store]:
    with closing(Store.from_settings(Settings(valkey_url=valkey_server.url))) as store:
        yield store


@pytest.fixture
def other(valkey_server: ValkeyServer) -> Iterator[Store]:
    """Another worker's."""
    with closing(Store.from_settings(Settings(valkey_url=valkey_server.url))) as store:
        yield store


def attempt(number: int = 0, agent: str = AGENTS[0]) -> Attempt:
    return Attempt(Part("d1", "propose:0", agent), f"w/1/{number}")


def fail(store: Store, attempt: Attempt, limits: Limits = LIMITS, **times: int) -> Any:
    return store.breakers.failed(HOST, attempt, "HTTP 503", limits, **times)


def state(store: Store) -> BreakerState:
    [found] = store.breakers.list()
    return found


def may_probe(store: Store) -> None:
    """Waits until the breaker's time is over."""
    wait_until(lambda: (state(store).probe_at_ms or 0) <= store.deliberations.now_ms(), what="it is time to try")


def test_a_server_that_never_failed_is_asked_and_is_no_news(store: Store) -> None:
    assert store.breakers.ask(HOST, attempt()) == (True, 0, False)
    store.breakers.answered(HOST, attempt())
    assert store.breakers.list() == []


def test_failures_in_a_row_over_all_workers_open_the_breaker(store: Store, other: Store) -> None:
    assert [fail(one, attempt(number)).changed for number, one in enumerate((store, other))] == [False, False]
    assert store.breakers.ask(HOST, attempt()).go
    told = fail(other, attempt(2))
    assert (told.state, told.failures, told.changed) == ("open", 3, True)
    assert not store.breakers.ask(HOST, attempt()).go
    assert not other.breakers.ask(HOST, attempt()).go
    found = state(store)
    assert (found.endpoint, found.state, found.failures, found.reason) == (HOST, "open", 3, "HTTP 503")
    assert found.probe_at_ms is not None
    assert 48_000 <= found.probe_at_ms - found.since_ms <= 72_001


def test_an_answer_between_failures_starts_the_count_anew(store: Store) -> None:
    for number in (1, 2):
        fail(store, attempt(number))
    store.breakers.answered(HOST, attempt(3))
    assert [fail(store, attempt(number)).state for number in (4, 5, 6)] == ["closed", "closed", "open"]


def test_servers_fail_each_for_itself(store: Store) -> None:
    fail(store, attempt(), AT_ONCE)
    assert store.breakers.ask("other:8000", attempt()).go


def test_one_of_all_who_wait_tries(store: Store, other: Store) -> None:
    fail(store, attempt(), AT_ONCE)
    may_probe(store)
    start = threading.Barrier(16)

    def ask(number: int) -> bool:
        start.wait(30)
        return (store, other)[number % 2].breakers.ask(HOST, attempt(number)).go

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(ask, range(16))) == 1
    assert state(store).state == "half-open"


def test_who_tries_is_told_so_again_when_the_answer_was_lost(store: Store) -> None:
    fail(store, attempt(), AT_ONCE)
    may_probe(store)
    assert store.breakers.ask(HOST, attempt(1))[::2] == store.breakers.ask(HOST, attempt(1))[::2] == (True, True)


def test_the_answer_to_the_one_that_tries_closes_and_no_other(store: Store) -> None:
    fail(store, attempt(), AT_ONCE)
    store.breakers.answered(HOST, attempt(7))  # asked before the outage
    assert state(store).state == "open"
    may_probe(store)
    store.breakers.ask(HOST, attempt(1))
    assert not store.breakers.answered(HOST, attempt(7)).changed
    assert state(store).state == "half-open"
    assert store.breakers.answered(HOST, attempt(1)).changed
    assert (state(store).state, state(store).failures, state(store).reason) == ("closed", 0, None)
    assert store.breakers.ask(HOST, attempt(2)) == (True, 0, False)


def test_each_failed_try_keeps_it_open_for_longer_up_to_a_limit(store: Store) -> None:
    waits = [fail(store, attempt(0), Limits(1, 1000)).next_ms]
    for number in range(1, 6):
        store.client.hset(f"fleet:breaker:{HOST}", "probe_at_ms", 0)
        assert store.breakers.ask(HOST, attempt(number)).probes
        told = fail(store, attempt(number), Limits(1, 1000))
        assert told.changed
        waits.append(told.next_ms)
    for wait, length in zip(waits, (1000, 2000, 4000, 8000, 8000, 8000), strict=True):
        assert 0.8 * length - 1 <= wait <= min(8000, 1.2 * length)


def test_a_server_is_left_alone_for_as_long_as_it_asks(store: Store) -> None:
    assert fail(store, attempt(), AT_ONCE, least_ms=90_000).next_ms == 90_000


def test_failures_of_others_do_not_put_off_the_next_try(store: Store) -> None:
    fail(store, attempt(), Limits(1, 60_000))
    before = state(store)
    assert not fail(store, attempt(1), Limits(1, 60_000)).changed
    assert state(store).probe_at_ms == before.probe_at_ms


def test_when_the_one_that_tries_is_lost_another_does(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(store)
    monkeypatch.setattr(module, "_LOST_MS", 3000)
    fail(store, attempt(), AT_ONCE)
    may_probe(store)
    first = attempt(1)
    assert store.breakers.ask(HOST, first).probes
    start(store, first)
    # It began to try long ago, and is heard of only now.
    store.client.hset(f"fleet:breaker:{HOST}", "probe_at_ms", 0)
    heard_of = json.dumps({"deaths": 0, "running": {first.id: 0}})
    store.client.hset("fleet:deliberation:d1:attempts", f"propose:0.{AGENTS[0]}", heard_of)
    store.deliberations.renew([first])
    assert not store.breakers.ask(HOST, attempt(2)).go
    wait_until(lambda: store.breakers.ask(HOST, attempt(2)).probes, what="another tries")
    assert not fail(store, first, AT_ONCE).changed


def opened(store: Store) -> Task:
    """A deliberation of three agents that none has started."""
    task = Task(
        deliberation_id="d1", role=Role.DEV, task_id="t1", task_description="Write it", rounds=0, agents=AGENTS,
        timeout_ms=60_000, created_at_ms=1,
    )  # fmt: skip
    store.submissions.add_deliberation(task, "digest")
    store.deliberations.open_step(task, "propose:0", AGENTS, "agents", "agents")
    return task


def start(store: Store, attempt: Attempt) -> Any:
    about = DeliberationStarted(deliberation_id="d1", task_id="t1", role=Role.DEV, status="IN_PROGRESS")
    return store.deliberations.start_part(attempt, "agents", 3, about)


def stand_still(store: Store, agent: str = AGENTS[0], since_ms: int = 0, ttl_ms: int = DAY_MS) -> Any:
    return store.breakers.stand_still(HOST, Part("d1", "propose:0", agent), "agents", since_ms, ttl_ms)


def run_for(store: Store, ms: int) -> int:
    """Lets the deliberation's clock run for so long; returns when its time is over."""
    return int(store.client.hincrby("fleet:deliberation:d1", "deadline_ms", -ms))  # type: ignore[arg-type]


def left_ms(store: Store) -> int:
    """What is left of the time of a deliberation whose clock stands."""
    deadline, budget = store.client.hmget("fleet:deliberation:d1", "deadline_ms", "budget_ms")  # type: ignore[misc]
    assert int(deadline or 0) == 0, "the clock runs"
    return int(budget)


def test_the_clock_stands_from_the_beginning_of_the_outage_once_for_all_who_wait(store: Store) -> None:
    opened(store)
    start(store, attempt())
    deadline = run_for(store, 30_000)
    since = deadline - 50_000  # ten seconds after the clock began to run
    found = [stand_still(store, agent, since) for agent in AGENTS for _ in "12"]
    assert [one.stopped for one in found] == [True, *[False] * 5]
    assert left_ms(store) == 50_000


def test_nothing_is_given_for_an_outage_before_the_clock_ran(store: Store) -> None:
    opened(store)
    start(store, attempt())
    run_for(store, 45_000)
    assert stand_still(store, since_ms=1)
    assert left_ms(store) == 60_000


def test_the_next_part_that_starts_lets_the_clock_run_on_with_what_was_left(store: Store) -> None:
    opened(store)
    start(store, attempt())
    deadline = run_for(store, 45_000)
    stand_still(store, since_ms=deadline - 20_000)
    again = start(store, attempt(1, AGENTS[1]))
    assert again.sets_deadline
    assert again.remaining_s == pytest.approx(20)
    assert stand_still(store, AGENTS[2], since_ms=deadline - 20_000).stopped
    assert left_ms(store) == 20_000


def test_a_step_waits_no_longer_than_in_a_queue(store: Store) -> None:
    opened(store)
    opened_ms = int(store.client.hget("fleet:deliberation:d1", "opened:propose:0"))  # type: ignore[arg-type]
    assert stand_still(store, ttl_ms=5000) == (False, opened_ms + 5000)


def test_one_that_waits_is_counted_and_is_not_lost(store: Store) -> None:
    opened(store)
    fail(store, attempt(), AT_ONCE)
    stand_still(store)
    assert state(store).waiting == 1
    assert store.breakers.waiting(HOST) == {"d1"}
    assert store.client.zrange("fleet:unstarted:agents", 0, -1) == [f"d1.propose:0.{agent}" for agent in AGENTS[1:]]


def test_what_nobody_wants_does_not_wait(store: Store) -> None:
    opened(store)
    fail(store, attempt(), AT_ONCE)
    stand_still(store)
    store.deliberations.seal_step("d1", "propose:0")
    assert stand_still(store) is None
    assert state(store).waiting == 0
