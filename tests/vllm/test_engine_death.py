"""An engine's death costs no answer: what ran goes back to its queue, and is answered once by the next worker."""

import os
import signal
from collections.abc import Iterator

import pytest

from fleet.stack import vllm
from tests.harness import ValkeyServer, wait_until
from tests.vllm.bench import Bench, open_bench
from tests.vllm.conftest import NewWorker, VllmWorker

pytestmark = pytest.mark.timeout(900)  # engines start in 20 to 60 s, some tests need several

POISON = {**vllm.SMALL_MODEL["gpu_engine_args"], "logits_processors": ["tests.vllm.poison:Poison"]}


@pytest.fixture
def bench(valkey_server: ValkeyServer) -> Iterator[Bench]:
    with open_bench(valkey_server) as made:
        yield made


def waiting(bench: Bench) -> int:
    return bench.store.statistics.ready(["gpu"])["gpu"]


def again(worker: VllmWorker) -> None:
    """What a supervisor does."""
    worker.kill()
    worker.start()


def test_what_ran_when_the_engine_was_killed_goes_back_to_its_queue_and_the_worker_ends(
    bench: Bench, new_gpu_worker: NewWorker
) -> None:
    worker = new_gpu_worker(bench.valkey.url)
    worker.start()
    ids = [bench.submit(f"Write part {number} of a cache", agents=4) for number in range(2)]
    bench.await_running(8)
    for engine in worker.engine_cores():
        engine.kill()
    wait_until(lambda: not worker.alive, 40, "the worker ends with its engine")
    assert worker.popen is not None
    assert worker.popen.returncode == os.EX_SOFTWARE
    wait_until(lambda: not worker.family(), 10, "nothing holds the device")
    assert waiting(bench) == 8  # at once, not when a lease lapsed
    assert bench.store.client.hlen("unacked") == 0
    assert [end for id in ids for end in bench.ends(id)] == []


def test_an_engine_that_aborts_what_nobody_gave_up_has_died(bench: Bench, new_gpu_worker: NewWorker) -> None:
    """SIGTERM makes vLLM's process end its requests as if they had been aborted, and not fail."""
    worker = new_gpu_worker(bench.valkey.url)
    worker.start()
    id = bench.submit(agents=2)
    bench.await_running(2)
    for engine in worker.engine_cores():
        engine.terminate()
    wait_until(lambda: not worker.alive, 40, "the worker ends with its engine")
    assert bench.answers(id) == []
    assert waiting(bench) == 2


def test_a_hung_engine_stops_being_ready_and_then_ends_with_its_worker(bench: Bench, new_gpu_worker: NewWorker) -> None:
    """Requests whose own time ends meanwhile are no answers either."""
    worker = new_gpu_worker(bench.valkey.url, gpu_hang_s=32, request_timeout_s=25)
    worker.start()
    bench.report(lambda one: "gpu" in one.queues)
    id = bench.submit(agents=2)
    bench.await_running(2)
    for engine in worker.engine_cores():
        engine.send_signal(signal.SIGSTOP)
    hung = bench.report(lambda one: one.engine_state and not one.engine_state.live, 30, "it does not count as live")
    assert hung.queues == ()
    wait_until(lambda: not worker.alive, 60, "the worker ends with its engine")
    assert "it did not answer for 32 s" in worker.output()
    wait_until(lambda: not worker.family(), 10, "nothing holds the device")
    assert bench.answers(id) == []
    assert waiting(bench) == 2


def test_a_request_that_kills_the_engine_fails_after_three_deaths_and_takes_no_other_with_it(
    bench: Bench, new_gpu_worker: NewWorker
) -> None:
    worker = new_gpu_worker(bench.valkey.url, gpu_engine_args=POISON)
    poison = bench.submit("Write about strychnine")
    others = [bench.submit(f"Write part {number} of a cache") for number in range(3)]
    deaths = 0
    while not all(bench.answers(id) for id in (poison, *others)):
        again(worker)
        wait_until(lambda: not worker.alive or all(bench.answers(id) for id in (poison, *others)), 240, "its end")
        deaths += not worker.alive
    assert deaths == 3
    [failed] = bench.answers(poison)
    assert failed.failure is not None
    assert "3 deaths" in failed.failure.message
    for id in others:
        [one] = bench.answers(id)
        assert one.ok or one.failure.type == "truncated"  # type: ignore[union-attr]


def test_kill_9_of_a_worker_leaves_an_engine_that_the_end_of_its_session_takes_with_it(
    bench: Bench, new_gpu_worker: NewWorker
) -> None:
    worker = new_gpu_worker(bench.valkey.url)
    worker.start()
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: not worker.alive, 10, "it is dead")
    orphans = worker.engine_cores()
    assert orphans  # vLLM's process does not notice; if it ever does, all the better, and this test can go
    worker.kill()
    wait_until(lambda: not worker.family(), 10, "nothing holds the device")
