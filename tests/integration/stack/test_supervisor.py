"""The supervisor by itself, driven step by step."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fleet.stack import supervisor as module
from fleet.stack.errors import StartFailed
from fleet.stack.process import Process
from fleet.stack.supervisor import Member, Stage, Stop, Supervisor
from tests.harness import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


class Flaky(Process):
    """Ends at once as long as the file `broken` exists."""

    def __init__(self, folder: Path):
        self.broken = folder / "broken"
        code = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).exists() and sys.exit(3); time.sleep(600)"
        super().__init__([sys.executable, "-c", code, str(self.broken)], folder / "flaky.log")


@contextmanager
def supervised(*members: tuple[Process, Stage]) -> Iterator[tuple[Supervisor, list[str]]]:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    for process, stage in members:
        supervisor.add(process, stage)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield supervisor, said
    finally:
        supervisor.request_stop(Stop.NOW)
        thread.join(30)
        assert not thread.is_alive()


def test_a_process_that_keeps_ending_is_started_ever_more_rarely_until_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr(module, "RAN_WELL_S", 0.3)
    flaky = Flaky(tmp_path)
    with supervised((flaky, Stage.WORKER)) as (supervisor, said):
        wait_until(lambda: said, what="it is ready")
        flaky.broken.touch()
        flaky.signal_group(9)
        wait_until(lambda: len(said) >= 4, what="it ended three times")
        flaky.broken.unlink()
        assert [line.rsplit(", ", 1)[1] for line in said if "starts again" in line][:3] == [
            "starts again in 0.05 s",
            "starts again in 0.1 s",
            "starts again in 0.2 s",
        ]
        wait_until(lambda: not supervisor.members[0].failures, what="it ran well, and its failures are forgotten")
        assert flaky.alive


def test_the_wait_before_a_start_has_an_upper_bound() -> None:
    member = Member(Process(SLEEP, Path("unused.log")), Stage.WORKER)
    waits = []
    for member.failures in range(1, 9):
        waits.append(member.backoff_s())
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_one_that_fails_to_start_ends_the_others_and_shows_its_log(tmp_path: Path) -> None:
    good = Process(SLEEP, tmp_path / "good.log")
    bad = Process(
        [sys.executable, "-c", "import sys, time; time.sleep(0.3); sys.exit('no such model')"], tmp_path / "bad.log"
    )
    bad.ready = lambda: False  # type: ignore[method-assign]
    supervisor = Supervisor()
    supervisor.add(good, Stage.SERVER)
    supervisor.add(bad, Stage.WORKER)
    with pytest.raises(StartFailed, match=r"(?s)bad ended with status 1; .*no such model"):
        supervisor.run()
    assert not good.alive


def test_one_that_is_not_ready_in_time_fails_the_start(tmp_path: Path) -> None:
    never = Process(SLEEP, tmp_path / "never.log")
    never.ready = lambda: False  # type: ignore[method-assign]
    never.ready_timeout_s = 0.2
    supervisor = Supervisor()
    supervisor.add(never, Stage.SERVER)
    with pytest.raises(StartFailed, match=r"never was not ready within 0\.2 s"):
        supervisor.run()
    assert not never.alive


def test_a_stop_during_the_start_is_heard(tmp_path: Path) -> None:
    never = Process(SLEEP, tmp_path / "never.log")
    never.ready = lambda: False  # type: ignore[method-assign]
    with supervised((never, Stage.SERVER)) as (supervisor, _):
        wait_until(lambda: never.alive, what="it was started")
        supervisor.request_stop(Stop.NOW)
        wait_until(lambda: not never.alive, 5, "it ended")


def test_a_restarted_process_that_does_not_get_ready_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.05)
    process = Process(SLEEP, tmp_path / "process.log")
    process.ready_timeout_s = 0.3
    with supervised((process, Stage.WORKER)) as (_, said):
        wait_until(lambda: said, what="it is ready")
        process.ready = lambda: False  # type: ignore[method-assign]
        process.signal_group(9)
        wait_until(lambda: any("was not ready within" in line for line in said), what="it was given up")
        del process.ready
        wait_until(lambda: said[-1].startswith("process: ready"), what="it is ready again")


def test_a_grandchild_in_a_session_of_its_own_ends_with_the_process(tmp_path: Path) -> None:
    code = f"import subprocess, time; subprocess.Popen({SLEEP!r}, start_new_session=True); time.sleep(600)"
    process = Process([sys.executable, "-c", code], tmp_path / "process.log")
    process.start()
    grandchild = wait_until(lambda: psutil.Process(process.pid).children(), what="there is a grandchild")[0]
    process.kill()
    wait_until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE, 5, "it is gone")


def test_a_log_that_has_grown_large_is_put_aside_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.stack.process.LOG_BYTES", 5)
    process = Process([sys.executable, "-c", "print('first and long')"], tmp_path / "one.log")
    for _ in range(2):
        process.spawn()
        wait_until(lambda: not process.alive, what="it ended")
        process.kill()
    assert (tmp_path / "one.log").read_text() == (tmp_path / "one.log.1").read_text() == "first and long\n"
