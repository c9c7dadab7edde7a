"""What our chords do beyond Celery's: deadlines, partial results, repeated messages, and nothing left behind."""

import time
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError, TimeoutError
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError, OutOfMemoryError

from fleet.valkey.backend import Backend
from fleet.valkey.publishing import publish_together
from tests.harness import wait_until
from tests.integration.valkey.conftest import ChordBench

MISSING = {"state": "MISSING", "error": {"type": "ChordError", "message": "no result before the chord's deadline"}}
FAILED = {"state": "FAILURE", "error": {"type": "ValueError", "message": "boom"}}


def ok(result: Any) -> dict[str, Any]:
    return {"state": "SUCCESS", "result": result}


def nobody(signature: Any) -> Any:
    """Sent to a queue that no worker reads."""
    return signature.set(queue="nobody")


def test_a_partial_body_gets_every_entry_when_the_deadline_passes(bench: ChordBench) -> None:
    bench.worker()
    header = [bench.s("add", 1), nobody(bench.s("add", 2)), bench.s("fail"), bench.s("add", 4)]
    body = bench.s("identity").set(chord_deadline=1.5, chord_partial=True)
    result = chord(header, task_id="chord")(body)
    wait_until(lambda: bench.app.backend.chord_state("chord")["parts"] == 3, what="three parts")
    assert bench.state("chord") == "OPEN"
    assert result.get(timeout=20, follow_parents=False) == [ok(1), MISSING, FAILED, ok(4)]


def test_a_partial_body_runs_as_soon_as_all_have_ended(bench: ChordBench) -> None:
    bench.worker()
    body = bench.s("identity").set(chord_deadline=3600, chord_partial=True)
    result = chord([bench.s("fail"), bench.s("add", 1)])(body)
    assert result.get(timeout=20, follow_parents=False) == [FAILED, ok(1)]


def test_partial_entries_are_nested_as_the_header_is(bench: ChordBench) -> None:
    bench.worker()
    nested = chain(bench.s("add", 1), group(bench.s("add", 1), nobody(bench.s("add", 2))))
    body = bench.s("identity").set(chord_deadline=1.5, chord_partial=True)
    result = chord([nested, bench.s("add", 5)])(body)
    assert result.get(timeout=20, follow_parents=False) == [[ok(2), MISSING], ok(5)]


def test_without_partial_a_deadline_fails_the_chord_and_late_parts_change_nothing(bench: ChordBench) -> None:
    bench.worker()
    body = bench.s("total").set(chord_deadline=1).on_error(bench.s("on_error", event="errback"))
    header = [bench.s("add", 1), bench.s("noted", 2, event="late", gate="gate")]
    result = chord(header, task_id="chord")(body)
    with pytest.raises(ChordError, match="passed its deadline with 1 of 2 parts"):
        result.get(timeout=20)
    bench.await_trace("errback")
    bench.await_state("chord", "DONE")
    bench.open("gate")
    assert bench.app.AsyncResult(result.parent.results[1].id).get(timeout=20) == 2
    assert (result.state, len(bench.trace("errback"))) == ("FAILURE", 1)


def test_an_inner_chord_past_its_deadline_fails_the_outer_one(bench: ChordBench) -> None:
    bench.worker()
    inner = chord([nobody(bench.s("add", 1))], bench.s("total").set(chord_deadline=0.5))
    result = chord([inner, bench.s("add", 2)])(bench.s("total"))
    with pytest.raises(ChordError, match="passed its deadline"):
        result.get(timeout=20, follow_parents=False)


def test_a_failure_reaches_the_end_of_nested_chords(bench: ChordBench) -> None:
    """Celery's backend leaves each of these results pending for ever."""
    bench.worker()
    inner = chord([bench.s("fail"), bench.s("add", 2)], bench.s("total"))
    body = chord([bench.s("total")], bench.s("identity").on_error(bench.s("on_error", event="errback")))
    chained = bench.s("total") | chord([bench.s("add"), bench.s("add")], bench.s("total"))
    results = [
        chord([inner, bench.s("add", 5)])(bench.s("total")),
        chord([bench.s("fail")])(body),
        chord([bench.s("fail")])(chained),
    ]
    for result in results:
        with pytest.raises(ChordError, match="boom"):
            result.get(timeout=20, follow_parents=False)
    assert len(bench.await_trace("errback")) == 1


def test_a_deadline_can_be_moved_while_the_chord_is_open(bench: ChordBench) -> None:
    bench.worker()
    backend: Backend = bench.app.backend
    result = chord([nobody(bench.s("add", 1))], task_id="chord")(bench.s("total").set(chord_deadline=3600))
    assert backend.set_chord_deadline("chord", time.time() + 1000)
    assert backend.chord_state("chord")["deadline"] == pytest.approx(time.time() + 1000, abs=60)
    assert backend.set_chord_deadline("chord", time.time())
    with pytest.raises(ChordError):
        result.get(timeout=20)
    bench.await_state("chord", "DONE")
    assert not backend.set_chord_deadline("chord", time.time() + 1000)
    assert not backend.set_chord_deadline("unknown", time.time() + 1000)
    assert backend.chord_state("unknown") is None


def test_a_chord_submitted_again_is_the_same_chord(bench: ChordBench) -> None:
    bench.worker()

    def submit() -> Any:
        header = [bench.s("add", 1).set(task_id="a"), bench.s("noted", 2, event="part", gate="gate").set(task_id="b")]
        body = bench.s("noted", event="body").set(task_id="body", chord_deadline=3600)
        return chord(header, task_id="chord")(body)

    result = submit()
    bench.await_trace("part start")
    wait_until(lambda: bench.app.backend.chord_state("chord")["parts"] == 1, what="one part")
    before = bench.app.backend.chord_state("chord")
    submit()
    bench.await_trace("part start", 2)
    assert bench.app.backend.chord_state("chord") == before
    bench.open("gate")
    assert result.get(timeout=20) == [1, 2]
    bench.await_trace("part end", 2)
    bench.await_state("chord", "DONE")
    submit()
    bench.await_trace("part end", 3)
    assert len(bench.trace("body start")) == 1


def test_a_lost_body_message_is_published_again(bench: ChordBench) -> None:
    bench.worker()
    result = chord([bench.s("add", 1)], task_id="chord")(bench.s("noted", event="body").set(queue="bodies"))
    with bench.valkey.client() as client:
        wait_until(lambda: client.llen("bodies"), what="the body is published")
        client.delete("bodies")
    bench.worker("bodies", queues="bodies")
    assert result.get(timeout=20) == [1]
    assert len(bench.trace("body start")) == 1


def test_of_many_copies_of_a_body_message_one_runs(bench: ChordBench) -> None:
    bench.worker()
    for number in range(5):
        body = bench.s("noted", event=f"body-{number}").set(queue="bodies")
        body.link(bench.si("noted", 0, event=f"link-{number}"))
        chord([bench.s("add", number)], task_id=f"chord-{number}")(body)
    with bench.valkey.client() as client:
        wait_until(lambda: client.llen("bodies") >= 10, what="a second copy of each body")
        bench.worker("bodies", queues="bodies")
        wait_until(lambda: not client.llen("bodies"), what="the queue is empty")
    for number in range(5):
        bench.await_state(f"chord-{number}", "DONE")
        bench.await_trace(f"link-{number} end")
        assert len(bench.trace(f"body-{number} start")) == len(bench.trace(f"link-{number} end")) == 1


def test_every_task_of_a_group_body_runs_once(bench: ChordBench) -> None:
    bench.worker()
    members = [bench.s("noted", event="left").set(queue="bodies"), bench.s("noted", event="right").set(queue="bodies")]
    result = chord([bench.s("add", 1)], task_id="chord")(group(members))
    with bench.valkey.client() as client:
        wait_until(lambda: client.llen("bodies") >= 4, what="a second copy of each")
        client.ltrim("bodies", 1, -1)
    bench.worker("bodies", queues="bodies")
    assert result.get(timeout=20) == [[1], [1]]
    bench.await_state("chord", "DONE")
    assert len(bench.trace("left start")) == len(bench.trace("right start")) == 1


def test_a_body_longer_than_its_lease_keeps_it(bench: ChordBench) -> None:
    bench.worker("one", TEST_LEASE="0.6")
    bench.worker("two", TEST_LEASE="0.6")
    result = chord([bench.s("add", 1)], task_id="chord")(bench.s("noted", event="body", gate="gate"))
    bench.await_trace("body start")
    seen = time.monotonic()
    wait_until(lambda: time.monotonic() - seen > 3, what="five leases have passed")
    bench.open("gate")
    assert result.get(timeout=20) == [1]
    assert len(bench.trace("body start")) == 1


def test_sweepers_of_two_workers_do_each_thing_once(bench: ChordBench) -> None:
    bench.worker("one")
    bench.worker("two")
    results = []
    for number in range(30):
        body = bench.s("noted", event=f"body-{number}-").set(chord_deadline=1, chord_partial=True)
        results.append(chord([nobody(bench.s("add", number))])(body))
        body = bench.s("total").set(chord_deadline=1).on_error(bench.s("on_error", event=f"errback-{number}-"))
        chord([nobody(bench.s("add", number))])(body)
    for number, result in enumerate(results):
        assert result.get(timeout=20, follow_parents=False) == [MISSING]
        assert len(bench.trace(f"body-{number}- start")) == 1
        assert len(bench.await_trace(f"errback-{number}-")) == 1


def test_only_workers_of_the_named_queues_sweep(bench: ChordBench) -> None:
    bench.worker("deaf", TEST_SWEEP_QUEUE="other")
    result = chord([nobody(bench.s("add", 1))], task_id="chord")(bench.s("identity").set(chord_deadline=0.1))
    seen = time.monotonic()
    wait_until(lambda: time.monotonic() - seen > 2, what="several sweeps would have been")
    assert bench.state("chord") == "OPEN"
    bench.worker("sweeping")
    with pytest.raises(ChordError):
        result.get(timeout=20)


def test_a_worker_without_install_still_ends_its_chords(bench: ChordBench) -> None:
    bench.worker(TEST_BACKEND="uninstalled")
    result = chord([bench.s("add", 1), bench.s("add", 2)], task_id="chord")(bench.s("total"))
    assert result.get(timeout=20) == 3
    bench.await_state("chord", "DONE")


def test_nothing_is_left_behind(bench: ChordBench) -> None:
    bench.worker()
    bodies = [bench.s("total"), bench.s("fail"), bench.s("total") | bench.s("add", 1), bench.s("retried", 1, "again"),
              group(bench.s("total"), bench.s("total")), chord([bench.s("total")], bench.s("total"))]  # fmt: skip
    for number, body in enumerate(bodies):
        chord([bench.s("add", 1), bench.s("add", 2)], task_id=f"chord-{number}")(body).get(timeout=20, propagate=False)
        bench.await_state(f"chord-{number}", "DONE")
    with bench.valkey.client() as client:
        assert client.pubsub_channels("celery-task-meta-*") == []
        kept = [key for key in client.scan_iter() if client.ttl(key) == -1]
        assert all(key.startswith("_kombu.binding") for key in kept), kept


def test_a_full_server_refuses_new_chords_and_ends_those_it_has(bench: ChordBench) -> None:
    bench.worker()
    result = chord([bench.s("noted", 1, event="part", gate="gate")], task_id="chord")(
        bench.s("noted", event="body", gate="gate").set(chord_deadline=3600)
    )
    bench.await_trace("part start")
    with bench.valkey.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            chord([bench.s("add", 1)])(bench.s("total"))
        bench.open("gate")
        wait_until(lambda: bench.state("chord") == "READY", what="the part is counted")
        client.config_set("maxmemory", 0)
    assert result.get(timeout=20) == [1]


def test_no_subscription_outlives_the_wait_for_it(bench: ChordBench) -> None:
    bench.worker()
    unread = [chord([bench.s("add", 1), bench.s("add", 2)])(bench.s("total")) for _ in range(5)]
    never = chord([nobody(bench.s("add", 1)), bench.s("add", 2)])(bench.s("total"))
    wait_until(lambda: all(result.ready() for result in unread), what="the chords end")
    with bench.valkey.client() as client:
        assert client.pubsub_channels("celery-task-meta-*") == []
        for result in (never, never.parent):
            with pytest.raises(TimeoutError):
                result.get(timeout=0.3)
        wait_until(lambda: not client.pubsub_channels("celery-task-meta-*"), 5, "no subscription is left")


def test_a_late_copy_of_a_failed_body_does_not_make_it_look_started(bench: ChordBench) -> None:
    bench.worker()
    chord([bench.s("add", 1)], task_id="chord")(bench.s("fail").set(queue="bodies", task_id="body"))
    with bench.valkey.client() as client:
        wait_until(lambda: client.llen("bodies") >= 3, what="copies of the body")
        worker = bench.worker("bodies", slots=1, queues="bodies", TEST_TRACK_STARTED="1")
        wait_until(lambda: worker.output().count("not needed") >= 2, what="copies ignored")
    assert bench.app.AsyncResult("body").state == "FAILURE"


def test_a_group_body_that_runs_is_not_published_again(bench: ChordBench) -> None:
    bench.worker()
    chord([bench.s("add", 1)], task_id="chord")(group(bench.s("noted", event=name, gate="gate") for name in "ab"))
    bench.await_trace("a start")
    bench.await_trace("b start")
    sweeps, seen = bench.app.backend.chord_state("chord")["sweeps"], time.monotonic()
    wait_until(lambda: time.monotonic() - seen > 5, what="two leases have passed")
    assert bench.app.backend.chord_state("chord")["sweeps"] == sweeps
    bench.open("gate")
    bench.await_state("chord", "DONE")


def test_a_task_of_a_group_body_starts_again_when_its_worker_dies(bench: ChordBench) -> None:
    bench.worker("staying")
    dying = bench.worker("dying", queues="dying")
    cut = bench.s("noted", event="cut", gate="cut").set(queue="dying")
    result = chord([bench.s("add", 1)], task_id="chord")(group(bench.s("noted", event="long", gate="gate"), cut))
    bench.await_trace("cut start")
    dying.kill()
    bench.open("cut")
    bench.worker("next", queues="dying")
    bench.await_trace("cut end")
    bench.open("gate")
    assert result.get(timeout=20) == [[1], [1]]
    bench.await_state("chord", "DONE")
    assert (len(bench.trace("long start")), len(bench.trace("cut start"))) == (1, 2)


def test_sweepers_and_workers_survive_a_restart_of_valkey(bench: ChordBench) -> None:
    worker = bench.worker()
    result = chord([nobody(bench.s("add", 1))])(bench.s("identity").set(chord_deadline=2, chord_partial=True))
    bench.valkey.kill()
    wait_until(lambda: "chord sweeper: ValKey does not answer" in worker.output(), what="the sweeper noticed")
    bench.valkey.start()
    assert result.get(timeout=25, follow_parents=False) == [MISSING]
    assert worker.output().count("chord sweeper: ValKey does not answer") == 1


def publish_flat(bench: ChordBench, group_id: str) -> Any:
    """A chord of 1 + 1 and 2 + 1 without a signature of each header task."""
    body = bench.s("total").set(task_id=f"{group_id}-body", queue="chord-test")
    bench.app.backend.open_chord(group_id, body, 2)

    def publish(producer: Any) -> None:
        for index in range(2):
            place = {"group_id": group_id, "group_index": index, "chord": body}
            task_id = f"{group_id}-{index}"
            bench.app.send_task("add", args=(index, 1), task_id=task_id, producer=producer, **place)

    publish_together(bench.app, publish)
    return bench.app.AsyncResult(f"{group_id}-body")


def test_a_chord_may_be_opened_and_its_header_published_apart(bench: ChordBench) -> None:
    bench.worker()
    assert publish_flat(bench, "flat").get(timeout=20) == 3
    publish_flat(bench, "flat")
    bench.await_state("flat", "DONE")


def test_messages_are_published_together_although_the_connection_was_lost_meanwhile(bench: ChordBench) -> None:
    bench.worker()
    assert publish_flat(bench, "before").get(timeout=20) == 3
    bench.valkey.kill()
    bench.valkey.start()
    assert publish_flat(bench, "after").get(timeout=30) == 3


def test_messages_for_a_broker_that_is_away_are_an_operational_error(bench: ChordBench) -> None:
    publish_flat(bench, "before")
    bench.valkey.kill()
    with pytest.raises((OperationalError, ConnectionError)):
        publish_together(bench.app, lambda producer: bench.app.send_task("add", args=(1, 2), producer=producer))
