"""`fleet up` with small processes in place of the workers: a real supervisor, driven by signals as a user would."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tests.harness import Process, free_port, wait_until


class Up(Process):
    """A `fleet up` in `folder`; every process below it has the folder in its environment, or is in it."""

    def __init__(self, folder: Path, port: int = 0, *options: str):
        command = [sys.executable, "-m", "tests.integration.stack.small_fleet", str(folder), str(port), *options]
        super().__init__(command, folder.with_suffix(".log"), {"FLEET_TEST_MARK": str(folder)})
        self.folder = folder

    @property
    def announced(self) -> Path:
        return self.folder / "fleet.json"

    def ready(self) -> bool:
        return self.alive and self.announced.exists()

    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.announced.read_text())
        return found

    def left(self) -> list[str]:
        """What still runs of this fleet, `fleet up` and its reaper among it."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get("FLEET_TEST_MARK") == str(self.folder)
                # Valkey writes its title over its environment.
                if (marked or process.cwd().startswith(str(self.folder))) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {process.cmdline()}")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


@pytest.fixture
def new_up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    made: list[Up] = []

    def make(port: int = 0, *options: str) -> Up:
        folder = tmp_path / "fleet"
        folder.mkdir(exist_ok=True)
        made.append(Up(folder, port, *options))
        return made[-1]

    yield make
    for up in made:
        up.stop(15)


def test_ctrl_c_ends_everything_within_seconds_and_leaves_nothing(new_up: Callable[..., Up]) -> None:
    up = new_up(0, "deaf")
    up.start()
    assert len(up.left()) > 5
    began = time.monotonic()
    os.kill(up.pid, signal.SIGINT)
    wait_until(lambda: not up.alive, 10, "fleet up ended")
    assert time.monotonic() - began < 8  # one process does not hear SIGTERM and is given 5 s
    wait_until(lambda: not up.left(), 2, "nothing is left")
    assert up.popen
    assert up.popen.returncode == 0
    assert not up.announced.exists()
    assert "bridge: did not end" in up.output()
    assert "letting running work end" not in up.output()


def test_sigterm_lets_work_end_after_the_api_and_before_the_servers_do(new_up: Callable[..., Up]) -> None:
    up = new_up()
    up.start()
    os.kill(up.pid, signal.SIGTERM)
    wait_until(lambda: not up.alive, 15, "fleet up ended")
    assert json.loads((up.folder / "drained").read_text()) == {"api": False, "valkey": True, "nats": True}
    wait_until(lambda: not up.left(), 2, "nothing is left")


def test_ctrl_c_cuts_a_drain_short(new_up: Callable[..., Up]) -> None:
    up = new_up()
    up.start()
    worker = up.info()["pids"]["worker"]
    os.kill(worker, signal.SIGSTOP)
    os.kill(up.pid, signal.SIGTERM)
    wait_until(lambda: "letting running work end" in up.output(), what="the drain began")
    os.kill(up.pid, signal.SIGINT)
    wait_until(lambda: not up.alive, 15, "fleet up ended, though its worker did not drain")
    wait_until(lambda: not up.left(), 2, "nothing is left")


def test_kill_9_of_fleet_up_leaves_no_process_behind(new_up: Callable[..., Up]) -> None:
    up = new_up()
    up.start()
    os.kill(up.pid, signal.SIGKILL)
    wait_until(lambda: not up.left(), 10, "nothing is left")


def test_a_successor_waits_until_nothing_of_a_killed_fleet_is_left_and_has_its_data(new_up: Callable[..., Up]) -> None:
    first = new_up(0, "deaf")
    first.start()
    pids = first.info()["pids"].values()
    with redis.Redis.from_url(first.info()["valkey_url"]) as client:
        client.set("key", "value")
    os.kill(first.pid, signal.SIGKILL)
    assert first.popen
    first.popen.wait()
    first.announced.unlink()
    second = new_up()
    second.start()
    assert not [pid for pid in pids if _runs(pid)]
    with redis.Redis.from_url(second.info()["valkey_url"]) as client:
        assert client.get("key") == b"value"
    assert second.info()["api_key"]


@pytest.mark.parametrize("name", ["valkey", "nats", "worker", "api"])
def test_a_process_that_is_killed_is_started_again_and_fleet_json_follows(new_up: Callable[..., Up], name: str) -> None:
    up = new_up()
    up.start()
    before = up.info()
    os.kill(before["pids"][name], signal.SIGKILL)
    after = wait_until(lambda: _changed(up, before), 10, "fleet.json names the new process")
    assert {one for one in after["pids"] if after["pids"][one] != before["pids"][one]} == {name}
    assert {**after, "pids": 0} == {**before, "pids": 0}
    wait_until(lambda: f"{name}: ready" in up.output().split("starts again")[-1], what="it is ready again")
    assert after["pids"][name] in [int(line.split()[0]) for line in up.left()]


def _runs(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def _changed(up: Up, before: dict[str, Any]) -> dict[str, Any] | None:
    after = up.info()
    return after if after != before else None


def test_children_of_a_killed_worker_do_not_outlive_it(new_up: Callable[..., Up]) -> None:
    up = new_up()
    up.start()
    worker = psutil.Process(up.info()["pids"]["worker"])
    child = wait_until(worker.children, what="the worker has its child")[0]
    worker.kill()
    wait_until(lambda: not _runs(child.pid), what="the child is gone")


def test_a_second_up_in_the_same_folder_says_which_process_runs_there(new_up: Callable[..., Up]) -> None:
    first, second = new_up(), new_up()
    first.start()
    before = first.info()
    second.log = second.log.with_suffix(".second")
    second.spawn()
    assert second.popen
    assert second.popen.wait(10) == 1
    assert f"running in {first.folder} already (pid {first.pid})" in second.output()
    assert first.info() == before


def test_a_given_port_that_is_taken_is_named_before_anything_starts(new_up: Callable[..., Up]) -> None:
    first = new_up()
    first.start()
    port = int(first.info()["api_url"].rsplit(":", 1)[1])
    other = Up(first.folder.with_name("other"), port)
    other.folder.mkdir()
    other.spawn()
    assert other.popen
    assert other.popen.wait(10) == 1
    assert f"api: port {port} of 127.0.0.1 is taken" in other.output()
    assert "valkey" not in other.output()


def test_a_given_port_is_the_apis(new_up: Callable[..., Up]) -> None:
    port = free_port()
    up = new_up(port)
    up.start()
    assert up.info()["api_url"] == f"http://127.0.0.1:{port}"


def test_fleet_json_has_every_address_and_only_its_owner_may_read_it(new_up: Callable[..., Up]) -> None:
    up = new_up()
    up.start()
    assert up.announced.stat().st_mode & 0o777 == 0o600
    info = up.info()
    assert set(info) == {
        *("api_url", "api_key", "nats_url", "valkey_url", "neo4j_uri", "neo4j_user", "neo4j_password", "flower_url"),
        "pids",
    }
    assert info["pids"] == {name: info["pids"][name] for name in ("valkey", "nats", "worker", "bridge", "api")}
    assert "@127.0.0.1" in info["flower_url"]
