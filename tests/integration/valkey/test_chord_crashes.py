"""A chord ends in one run of its body that counts, whichever process dies at whichever instant."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
from celery import chord
from celery.exceptions import ChordError

from tests.harness import wait_until
from tests.integration.valkey.conftest import ChordBench

CRASHING = "tests.integration.valkey.crash_app"
BEFORE_THE_BODY = [
    "before the part is counted",
    "after the part is counted",
    "before the body is published",
    "after the body is published",
    "before the body is claimed",
    "after the body is claimed",
]


@pytest.fixture(scope="module")
def prefork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChordBench]:
    """A worker whose children crash and are replaced."""
    with ExitStack() as stack:
        bench = ChordBench(tmp_path_factory.mktemp("prefork"), stack)
        bench.worker("prefork", pool="prefork", slots=2, module=CRASHING, TEST_ACKS_LATE="1")
        yield bench


def submit(bench: ChordBench, point: str = "") -> str:
    """A chord of two whose body has a link; a process dies at `point`."""
    event = str(uuid4())
    if point:
        (bench.folder / "crash-at").write_text(f"{point} {event}")
    body = bench.s("noted", event=f"body-{event}").set(task_id=f"id-{event}")
    body.link(bench.si("noted", 0, event=f"link-{event}"))
    chord([bench.s("add", 1), bench.s("add", 2)], task_id=event)(body)
    return event


def assert_crashed(bench: ChordBench, point: str) -> None:
    assert (bench.folder / f"crashed-{point}").exists(), f"nothing died {point}"


def assert_ran_once(bench: ChordBench, event: str) -> None:
    assert bench.app.AsyncResult(f"id-{event}").get(timeout=25) == [1, 2]
    bench.await_state(event, "DONE")
    bench.await_trace(f"link-{event} end")
    assert len(bench.trace(f"body-{event} start")) == 1
    assert len(bench.trace(f"link-{event} end")) == 1


@pytest.mark.parametrize("point", [*BEFORE_THE_BODY, "after the body is completed"])
def test_a_child_killed(prefork: ChordBench, point: str) -> None:
    event = submit(prefork, point)
    assert_ran_once(prefork, event)
    wait_until(lambda: (prefork.folder / f"crashed-{point}").exists(), what=f"something died {point}")


def test_a_child_killed_between_the_effects_of_a_body_and_their_record(prefork: ChordBench) -> None:
    event = submit(prefork, point := "before the body is completed")
    assert prefork.app.AsyncResult(f"id-{event}").get(timeout=25) == [1, 2]
    prefork.await_state(event, "DONE")
    assert_crashed(prefork, point)
    assert len(prefork.trace(f"body-{event} end")) == 2


def test_a_child_killed_in_the_body(prefork: ChordBench) -> None:
    event = str(uuid4())
    body = prefork.s("kills_its_worker", event=event, times=1)
    assert chord([prefork.s("add", 1)], task_id=event)(body).get(timeout=25) == [1]
    assert len(prefork.trace(f"{event} start")) == 2
    prefork.await_state(event, "DONE")


@pytest.mark.parametrize("point", BEFORE_THE_BODY[::2] + BEFORE_THE_BODY[-1:])
def test_a_whole_worker_killed(bench: ChordBench, point: str) -> None:
    first = bench.worker("first", module=CRASHING, TEST_ACKS_LATE="1")
    event = submit(bench, point)
    wait_until(lambda: not first.alive, what="the first worker died")
    assert_crashed(bench, point)
    bench.worker("second", TEST_ACKS_LATE="1")
    assert_ran_once(bench, event)


def test_with_early_acks_a_body_runs_again_and_a_header_task_fails_its_chord(bench: ChordBench) -> None:
    bench.worker(pool="prefork", slots=2)
    result = chord([bench.s("add", 1)])(bench.s("kills_its_worker", event="body", times=1))
    failed = chord([bench.s("kills_its_worker", 1, event="part", times=1)])(bench.s("total"))
    assert result.get(timeout=25) == [1]
    with pytest.raises(ChordError, match="WorkerLostError"):
        failed.get(timeout=25, follow_parents=False)


def test_a_body_that_kills_every_worker_fails(bench: ChordBench) -> None:
    bench.worker(pool="prefork", slots=2, TEST_ACKS_LATE="1", TEST_LEASE="0.3")
    body = bench.s("kills_its_worker", event="body", times=99).on_error(bench.s("on_error", event="errback"))
    result = chord([bench.s("add", 1)], task_id="poison")(body)
    with pytest.raises(ChordError, match="lost 5 workers"):
        result.get(timeout=28)
    bench.await_trace("errback")
    bench.await_state("poison", "DONE")


@pytest.mark.parametrize("during", ["part", "body"])
def test_valkey_killed(bench: ChordBench, during: str) -> None:
    bench.worker(TEST_ACKS_LATE="1")
    gates = {"part": "", "body": "", during: "gate"}
    header = [bench.s("noted", 1, event="part", gate=gates["part"]), bench.s("add", 2)]
    body = bench.s("noted", event="body", gate=gates["body"])
    body.link(bench.si("noted", 0, event="link"))
    result = chord(header, task_id="chord")(body)
    bench.await_trace(f"{during} start")
    bench.valkey.kill()
    bench.open("gate")
    bench.await_trace(f"{during} end")
    bench.valkey.start()
    bench.await_state("chord", "DONE")
    assert result.get(timeout=20) == [1, 2]
    assert len(bench.await_trace("link end")) == 1


def test_a_stopped_workers_body_has_no_effect_once_another_took_over(bench: ChordBench) -> None:
    first = bench.worker("first")
    body = bench.s("noted", event="body", gate="gate")
    body.link(bench.si("noted", 0, event="link"))
    result = chord([bench.s("add", 1)], task_id="chord")(body)
    bench.await_trace("body start")
    first.signal_group(signal.SIGSTOP)
    bench.worker("second")
    bench.await_trace("body start", 2)
    bench.open("gate")
    assert result.get(timeout=20) == [1]
    bench.await_state("chord", "DONE")
    first.signal_group(signal.SIGCONT)
    bench.await_trace("body end", 2)
    wait_until(lambda: "another run of its body took over" in first.output(), what="the first run was fenced off")
    assert len(bench.trace("link end")) == 1
