"""What a chord means, on Celery's own Redis backend and on ours: the same tests, so that ours can take its place."""

from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError, TimeoutError
from celery.result import AsyncResult

from tests.harness import ValkeyServer, wait_until
from tests.integration.valkey.conftest import ChordBench


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["stock", "durable"])
def celery(request: pytest.FixtureRequest, valkey: ValkeyServer,
           tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChordBench]:  # fmt: skip
    durable = request.param == "durable"
    with ExitStack() as stack:
        bench = ChordBench(tmp_path_factory.mktemp(request.param), stack, durable, int(durable), valkey)
        bench.worker(slots=8)
        yield bench
        # What Celery's backend never unsubscribed it would try to, for 20 s each, on a server that is gone.
        bench.app.backend.result_consumer.subscribed_to.clear()


def error_of(result: AsyncResult) -> BaseException:
    """The error stored for this very task; `get` raises that of a parent first."""
    with pytest.raises(Exception) as caught:
        result.get(timeout=20, follow_parents=False)
    return caught.value


def test_results_come_in_the_order_of_the_header(celery: ChordBench) -> None:
    header = [celery.s("add", number) for number in range(12)]
    assert chord(header)(celery.s("identity")).get(timeout=20) == list(range(12))


def test_a_lazy_header_is_counted_while_it_is_published(celery: ChordBench) -> None:
    header = (celery.s("add", number) for number in range(7))
    assert chord(header)(celery.s("total")).get(timeout=20) == 21


def test_a_header_of_one(celery: ChordBench) -> None:
    assert chord([celery.s("add", 5)])(celery.s("identity")).get(timeout=20) == [5]


def test_an_empty_header_runs_the_body_at_once(celery: ChordBench) -> None:
    assert chord([])(celery.s("identity").set(chord_deadline=30, chord_partial=True)).get(timeout=20) == []


def test_ids_given_by_the_caller_are_kept(celery: ChordBench) -> None:
    ids = [str(uuid4()) for _ in range(4)]
    header = [celery.s("add", 1).set(task_id=ids[0]), celery.s("add", 2).set(task_id=ids[1])]
    result = chord(header, task_id=ids[2])(celery.s("total").set(task_id=ids[3]))
    assert result.get(timeout=20) == 3
    assert (result.id, result.parent.id) == (ids[3], ids[2])
    assert [child.id for child in result.parent.results] == ids[:2]
    assert [celery.app.AsyncResult(task_id).get(timeout=20) for task_id in ids[:2]] == [1, 2]


def test_the_parent_of_the_result_holds_the_header(celery: ChordBench) -> None:
    result = chord([celery.s("add", 1), celery.s("add", 2)])(celery.s("total"))
    assert result.get(timeout=20) == 3
    assert result.parent.get(timeout=20) == [1, 2]
    assert result.parent.successful()


def test_a_body_keeps_its_own_arguments(celery: ChordBench) -> None:
    assert chord([celery.s("add", 1), celery.s("add", 2)])(celery.s("total", extra=10)).get(timeout=20) == 13


def test_an_immutable_body_ignores_the_results(celery: ChordBench) -> None:
    assert chord([celery.s("add", 1), celery.s("add", 2)])(celery.si("identity", "own")).get(timeout=20) == "own"


def test_a_failed_header_task_fails_the_body_and_calls_its_errbacks(celery: ChordBench) -> None:
    event = f"errback-{uuid4()}"
    body = celery.s("noted", event=f"never-{event}").on_error(celery.s("on_error", event=event))
    result = chord([celery.s("add", 1), celery.s("fail")])(body)
    error = error_of(result)
    assert isinstance(error, ChordError)
    assert "raised ValueError('boom')" in str(error)
    assert result.state == "FAILURE"
    assert celery.await_trace(event) == [f"{event} {result.id} ChordError"]
    assert not celery.trace(f"never-{event}")


def test_errbacks_of_a_header_task_are_called_too(celery: ChordBench) -> None:
    event = f"header-{uuid4()}"
    failing = celery.s("fail").on_error(celery.s("on_error", event=event))
    result = chord([celery.s("add", 1), failing])(celery.s("total"))
    assert isinstance(error_of(result), ChordError)
    assert len(celery.await_trace(event)) == 1


def test_a_failed_body_is_its_own_failure(celery: ChordBench) -> None:
    event = f"body-{uuid4()}"
    body = celery.s("fail", message="in body").on_error(celery.s("on_error", event=event))
    with pytest.raises(ValueError, match="in body"):
        chord([celery.s("add", 1)])(body).get(timeout=20)
    assert celery.await_trace(event)[0].endswith("ValueError")


def test_links_of_header_and_body_are_called(celery: ChordBench) -> None:
    event = str(uuid4())
    header = [celery.s("add", 1), celery.s("add", 2)]
    header[0].link(celery.s("noted", event=f"header-{event}"))
    body = celery.s("total")
    body.link(celery.s("noted", event=f"body-{event}"))
    assert chord(header)(body).get(timeout=20) == 3
    assert celery.await_trace(f"header-{event} end") == [f"header-{event} end 1"]
    assert celery.await_trace(f"body-{event} end") == [f"body-{event} end 3"]


def test_a_link_given_to_apply_async_is_called_with_the_bodys_result(celery: ChordBench) -> None:
    event = str(uuid4())
    whole = chord([celery.s("add", 1), celery.s("add", 2)], celery.s("total"))
    assert whole.apply_async(link=celery.s("noted", event=event)).get(timeout=20) == 3
    assert celery.await_trace(f"{event} end") == [f"{event} end 3"]


def test_chains_in_the_header(celery: ChordBench) -> None:
    header = [celery.s("add", 1) | celery.s("add", 1), celery.s("add", 5)]
    assert chord(header)(celery.s("identity")).get(timeout=20) == [2, 5]


def test_a_failure_in_the_middle_of_a_header_chain(celery: ChordBench) -> None:
    header = [celery.s("fail") | celery.s("add", 1), celery.s("add", 5)]
    assert isinstance(error_of(chord(header)(celery.s("total"))), ChordError)


def test_a_group_in_the_header_is_flattened(celery: ChordBench) -> None:
    header = [celery.s("add", 1), group(celery.s("add", 2), celery.s("add", 3))]
    assert sorted(chord(header)(celery.s("identity")).get(timeout=20)) == [1, 2, 3]


def test_a_chain_that_ends_in_a_group_keeps_its_nesting(celery: ChordBench) -> None:
    nested = chain(celery.s("add", 1), group(celery.s("add", 10), celery.s("add", 20)))
    assert chord([nested, celery.s("add", 5)])(celery.s("identity")).get(timeout=20) == [[11, 21], 5]


def test_a_chord_in_the_header(celery: ChordBench) -> None:
    inner = chord([celery.s("add", 1), celery.s("add", 2)], celery.s("total"))
    assert chord([inner, celery.s("add", 5)])(celery.s("identity")).get(timeout=20) == [3, 5]


def test_a_chord_in_a_chord_in_a_chord(celery: ChordBench) -> None:
    inner = chord([celery.s("add", 1), celery.s("add", 2)], celery.s("total"))
    middle = chord([inner, celery.s("add", 4)], celery.s("total"))
    assert chord([middle, celery.s("add", 8)])(celery.s("identity")).get(timeout=20) == [7, 8]


def test_a_chain_as_the_body(celery: ChordBench) -> None:
    body = celery.s("total") | celery.s("add", 10) | celery.s("add", 100)
    assert chord([celery.s("add", 1), celery.s("add", 2)])(body).get(timeout=20) == 113


def test_a_group_as_the_body(celery: ChordBench) -> None:
    body = group(celery.s("total"), celery.s("total", extra=10))
    assert chord([celery.s("add", 1), celery.s("add", 2)])(body).get(timeout=20) == [3, 13]


def test_a_failed_header_fails_every_task_of_a_group_body(celery: ChordBench) -> None:
    result = chord([celery.s("fail")])(group(celery.s("total"), celery.s("total")))
    assert {type(error_of(member)) for member in result.results} == {ValueError}


def test_a_failed_header_fails_the_last_task_of_a_chain_body(celery: ChordBench) -> None:
    body = celery.s("total") | celery.s("add", 10)
    assert isinstance(error_of(chord([celery.s("fail")])(body)), ChordError)


def test_a_chord_as_the_body(celery: ChordBench) -> None:
    body = chord([celery.s("total"), celery.s("total", extra=10)], celery.s("identity"))
    assert chord([celery.s("add", 1), celery.s("add", 2)])(body).get(timeout=20) == [3, 13]


def test_a_group_amid_a_chain_becomes_a_chord(celery: ChordBench) -> None:
    steps = chain(celery.s("add", 1), group(celery.s("add", 1), celery.s("add", 2)), celery.s("total"),
                  group(celery.s("add", 10), celery.s("add", 20)), celery.s("identity"))  # fmt: skip
    assert steps.apply_async().get(timeout=20) == [15, 25]


@pytest.mark.parametrize(
    ("task", "outcome"), [("replaced_by_task", 101), ("replaced_by_group", [2, 3]), ("replaced_by_chord", 5)]
)
def test_a_header_task_may_replace_itself(celery: ChordBench, task: str, outcome: object) -> None:
    assert chord([celery.s(task, 1), celery.s("add", 7)])(celery.s("identity")).get(timeout=20) == [outcome, 7]


def test_a_body_may_replace_itself(celery: ChordBench) -> None:
    assert chord([celery.s("add", 1), celery.s("add", 2)])(celery.s("replaced_by_task")).get(timeout=20) == 103


def test_a_header_task_may_add_to_its_chord(celery: ChordBench) -> None:
    assert chord([celery.s("growing", 1), celery.s("add", 2)])(celery.s("total")).get(timeout=20) == 1004


def test_tasks_may_start_chords_and_wait_for_results(celery: ChordBench) -> None:
    assert chord([celery.s("joins_inside", 1), celery.s("add", 2)])(celery.s("total")).get(timeout=20) == 7
    inner = celery.s("chord_inside", 1).apply_async().get(timeout=20)
    assert celery.app.AsyncResult(inner).get(timeout=20) == 5


def test_results_need_not_be_stored(celery: ChordBench) -> None:
    assert chord([celery.s("quiet", 1), celery.s("quiet", 2)])(celery.s("total")).get(timeout=20) == 3
    event = str(uuid4())
    body = celery.s("quiet")
    body.link(celery.s("noted", event=event))
    chord([celery.s("add", 1), celery.s("add", 2)])(body)
    assert celery.await_trace(f"{event} end") == [f"{event} end [1, 2]"]


def test_a_body_may_retry(celery: ChordBench) -> None:
    event = str(uuid4())
    assert chord([celery.s("add", 1)])(celery.s("retried", times=2, event=event)).get(timeout=20) == [1]
    assert celery.trace(event) == [f"{event} try {number}" for number in range(3)]


def test_a_header_task_may_retry(celery: ChordBench) -> None:
    header = [celery.s("retried", 1, times=1, event=str(uuid4())), celery.s("add", 2)]
    assert chord(header)(celery.s("total")).get(timeout=20) == 3


def test_a_body_may_be_rejected_and_delivered_again(celery: ChordBench) -> None:
    event = str(uuid4())
    assert chord([celery.s("add", 1)])(celery.s("rejected_once", event=event)).get(timeout=20) == [1]
    assert len(celery.trace(event)) == 2


def test_a_forgotten_result_is_gone(celery: ChordBench) -> None:
    result = chord([celery.s("add", 1), celery.s("add", 2)])(celery.s("total"))
    assert result.get(timeout=20) == 3
    children = result.parent.results
    result.forget()
    assert celery.app.AsyncResult(result.id).state == "PENDING"
    assert {celery.app.AsyncResult(child.id).state for child in children} == {"PENDING"}


def test_waiting_may_time_out_and_be_tried_again(celery: ChordBench) -> None:
    gate = str(uuid4())
    result = chord([celery.s("noted", 1, event=gate, gate=gate)])(celery.s("identity"))
    with pytest.raises(TimeoutError):
        result.get(timeout=0.2)
    celery.open(gate)
    assert result.get(timeout=20) == [1]


def test_a_group_of_results(celery: ChordBench) -> None:
    result = group(celery.s("add", 1), celery.s("add", 2), celery.s("fail"))()
    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=20)
    assert result.join(propagate=False, timeout=20)[:2] == [1, 2]
    assert result.completed_count() == 2


def test_a_revoked_header_task_fails_the_chord(celery: ChordBench) -> None:
    revoked = celery.s("add", 1).set(expires=-10)
    error = error_of(chord([revoked, celery.s("add", 2)])(celery.s("total")))
    assert isinstance(error, ChordError)
    assert "TaskRevokedError" in str(error)


def test_a_soft_wait_for_one_of_many_chords_in_flight(celery: ChordBench) -> None:
    results = [chord([celery.s("add", n), celery.s("add", 1)])(celery.s("total")) for n in range(40)]
    wait_until(lambda: all(result.ready() for result in results), what="all chords are done")
    assert [result.get(timeout=20) for result in results] == [n + 1 for n in range(40)]
