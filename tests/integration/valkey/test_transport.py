"""What a broker or worker crash may cost: time, never a task. Each test runs real workers against a real ValKey."""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from celery import Celery

from fleet.valkey.transport import BROKER_TRANSPORT_OPTIONS, install
from tests.harness import Process, ValkeyServer, wait_until

ROOT = Path(__file__).resolve().parents[3]
QUEUE = "transport-test"
LEASE_S = 3  # transport_app's
RESTORED_WITHIN_S = 25


class Bench:
    """A ValKey, workers that are started by node name, a producer and the trace that the tasks write."""

    def __init__(self, folder: Path, stack: ExitStack):
        self.folder, self.stack = folder, stack
        self.valkey = ValkeyServer(folder)
        self.valkey.start()
        stack.callback(self.valkey.stop)
        self.workers: list[Process] = []
        self.app = Celery(broker=self.valkey.url)
        self.app.conf.update(task_default_queue=QUEUE, broker_transport_options=BROKER_TRANSPORT_OPTIONS)
        stack.callback(self.app.close)

    def worker(self, node: str, pool: str = "threads", slots: int = 2, skew_s: float = 0) -> Process:
        command = [sys.executable, "-m", "celery", "-A", "tests.integration.valkey.transport_app", "worker",
                   "-P", pool, "-c", str(slots), "-n", f"{node}@test", "-l", "INFO"]  # fmt: skip
        env = {
            "TEST_FOLDER": str(self.folder),
            "TEST_BROKER": self.valkey.url,
            "NODE": node,
            "CLOCK_SKEW_S": str(skew_s),
        }
        process = Process(command, self.folder / f"{node}.log", env, ROOT)
        process.start()
        self.stack.callback(self._end, process)
        self.workers.append(process)
        wait_until(lambda: "ready." in process.output(), what=f"worker {node} is ready")
        return process

    def _end(self, process: Process) -> None:
        process.signal_group(signal.SIGCONT)
        process.kill()

    def send(self, task: str, *args: object) -> None:
        self.app.send_task(task, args)

    def sync(self) -> None:
        """Waits until the append-only file holds everything so far, so that kill -9 takes nothing with it."""
        with self.valkey.client() as client:
            wait_until(lambda: client.execute_command("WAITAOF", 1, 0, 1000)[0] == 1, what="ValKey wrote its file")

    def crash_valkey(self) -> None:
        self.sync()
        self.valkey.kill()

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    def nodes(self, event: str, name: str) -> list[str]:
        trace = self.folder / "trace"
        lines = [line.split() for line in trace.read_text().splitlines()] if trace.exists() else []
        return [node for what, task, node in lines if (what, task) == (event, name)]

    def started(self, *names: str) -> list[str]:
        return [name for name in names for _ in self.nodes("start", name)]

    def await_reconnect(self, worker: Process) -> None:
        wait_until(lambda: worker.output().count("Connected to redis") == 2, 60, "the worker has reconnected")

    def await_(self, event: str, *names: str, node: str | None = None, within_s: float = 30) -> None:
        def happened() -> bool:
            return all(node in nodes if node else nodes for nodes in (self.nodes(event, name) for name in names))

        wait_until(happened, within_s, f"{event} of {names} on {node or 'any worker'}")

    def await_nothing_left(self, within_s: float = 30) -> None:
        with self.valkey.client() as client:
            wait_until(
                lambda: not (client.llen(QUEUE) or client.exists("unacked", "unacked_index")),
                within_s,
                "queue and unacknowledged messages are empty",
            )

    def assert_sound(self, *workers: Process) -> None:
        for worker in workers:
            assert worker.alive, worker.output()
        for worker in self.workers:
            for trouble in ("AttributeError", "Traceback", "CRITICAL"):
                assert trouble not in worker.output(), worker.output()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    install()
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_worker_survives_a_valkey_crash_and_what_it_runs_meanwhile_runs_once(bench: Bench, pool: str) -> None:
    worker = bench.worker("a", pool)
    for name in ("one", "two", "three", "four"):
        bench.send("wait_for_gate", name, "gate")
    wait_until(lambda: len(bench.started("one", "two", "three", "four")) == 2, what="two tasks run")
    running = bench.started("one", "two", "three", "four")
    bench.crash_valkey()
    bench.valkey.start()
    bench.await_reconnect(worker)
    bench.open("gate")
    bench.await_("end", "one", "two", "three", "four")
    bench.await_nothing_left()
    started = bench.started("one", "two", "three", "four")
    assert [started.count(name) for name in running] == [1, 1]
    bench.assert_sound(worker)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_cut_connections_cost_nothing_that_runs(bench: Bench, pool: str) -> None:
    worker = bench.worker("a", pool)
    for name in ("one", "two", "three"):
        bench.send("wait_for_gate", name, "gate")
    wait_until(lambda: len(bench.started("one", "two", "three")) == 2, what="two tasks run")
    running = bench.started("one", "two", "three")
    with bench.valkey.client() as client:
        client.execute_command("CLIENT", "KILL", "SKIPME", "yes")
    bench.await_reconnect(worker)
    bench.open("gate")
    bench.await_("end", "one", "two", "three")
    bench.await_nothing_left()
    started = bench.started("one", "two", "three")
    assert [started.count(name) for name in running] == [1, 1]
    bench.assert_sound(worker)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_task_that_ends_while_valkey_is_away_is_not_run_again(bench: Bench, pool: str) -> None:
    worker = bench.worker("a", pool)
    bench.send("wait_for_gate", "one", "gate")
    bench.await_("start", "one")
    bench.crash_valkey()
    bench.open("gate")
    bench.await_("end", "one")
    bench.valkey.start()
    bench.await_nothing_left()
    bench.send("work", "next")
    bench.await_("end", "next")
    assert bench.nodes("start", "one") == ["a"]
    bench.assert_sound(worker)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_a_killed_worker_held_runs_elsewhere(bench: Bench, pool: str) -> None:
    first = bench.worker("a", pool)
    for name in ("one", "two"):
        bench.send("wait_for_gate", name, "{node}")
    bench.await_("start", "one", "two")
    second = bench.worker("b", pool)
    bench.open("b")
    first.kill()
    bench.await_("end", "one", "two", node="b", within_s=RESTORED_WITHIN_S)
    bench.await_nothing_left()
    bench.assert_sound(second)


def test_replacement_of_the_only_worker_takes_over(bench: Bench) -> None:
    first = bench.worker("a")
    bench.send("wait_for_gate", "one", "b")
    bench.await_("start", "one")
    first.kill()
    bench.open("b")
    second = bench.worker("b")
    bench.await_("end", "one", node="b", within_s=RESTORED_WITHIN_S)
    bench.await_nothing_left()
    bench.assert_sound(second)


def test_woken_worker_settles_only_its_own_copy(bench: Bench) -> None:
    stopped = bench.worker("a")
    bench.send("wait_for_gate", "one", "{node}")
    bench.await_("start", "one")
    stopped.signal_group(signal.SIGSTOP)
    second = bench.worker("b")
    bench.await_("start", "one", node="b", within_s=RESTORED_WITHIN_S)
    bench.open("a")
    stopped.signal_group(signal.SIGCONT)
    bench.await_("end", "one", node="a")
    wait_until(lambda: "succeeded" in stopped.output(), what="the woken worker has acknowledged")
    second.kill()
    wait_until(lambda: len(bench.nodes("end", "one")) == 2, RESTORED_WITHIN_S, "the second worker's copy ran again")
    bench.await_nothing_left()
    bench.assert_sound(stopped)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_task_longer_than_its_lease_runs_once_even_beside_a_worker_with_a_wrong_clock(bench: Bench, pool: str) -> None:
    workers = [bench.worker("a", pool)]
    bench.send("work", "long", 3 * LEASE_S)
    bench.await_("start", "long")
    workers.append(bench.worker("b", skew_s=600))
    bench.await_("end", "long")
    bench.await_nothing_left()
    assert bench.nodes("start", "long") == ["a"]
    bench.assert_sound(*workers)


def test_message_sent_while_the_only_waiting_worker_is_stopped_is_not_lost_with_it(bench: Bench) -> None:
    first = bench.worker("a")
    bench.send("work", "before")
    bench.await_("end", "before")
    first.signal_group(signal.SIGSTOP)
    bench.send("work", "one")
    first.kill()
    second = bench.worker("b")
    bench.await_("end", "one", within_s=RESTORED_WITHIN_S)
    bench.await_nothing_left()
    bench.assert_sound(second)


def test_remote_control_is_answered_by_return(bench: Bench) -> None:
    bench.worker("a")
    with bench.valkey.client() as client:
        replies = bench.app.control.ping(timeout=30, limit=1)
        assert replies == [{"a@test": {"ok": "pong"}}]
        assert client.exists("unacked") == 0


def test_every_task_ends_though_valkey_crashes_twice_under_load(bench: Bench) -> None:
    workers = [bench.worker("a", "threads", 4), bench.worker("b", "prefork", 2)]
    names = [str(number) for number in range(60)]
    for name in names:
        bench.send("work", name, 0.5)
    for done in (10, 30):
        wait_until(lambda done=done: _ended(bench, names) >= done, 60, f"{done} tasks have ended")
        bench.crash_valkey()
        bench.valkey.start()
    bench.await_("end", *names, within_s=60)
    bench.await_nothing_left()
    bench.assert_sound(*workers)


def _ended(bench: Bench, names: list[str]) -> int:
    return sum(bool(bench.nodes("end", name)) for name in names)
