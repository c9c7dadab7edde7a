"""The launcher of a GPU node with real processes, of which only the workers' program is a small one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness import Process, wait_until

State = dict[str, dict[str, Any]]


class SmallNode(Process):
    """A launcher with its files in `folder`; `workers` says by its name how each is doing."""

    def __init__(self, folder: Path, workers: int, timeout_s: float):
        env = {"FLEET_DIR": str(folder), "FLEET_REQUEST_TIMEOUT_S": str(timeout_s)}
        command = [sys.executable, "-m", "tests.integration.gpu.small_node", str(workers)]
        super().__init__(command, folder.with_name(f"node-{os.urandom(3).hex()}.log"), env)
        self.folder = folder

    @property
    def workers(self) -> State:
        try:
            document = json.loads((self.folder / "gpu.json").read_text())
        except FileNotFoundError:
            return {}
        return {worker["worker"].split("@")[0]: worker for worker in document["workers"]}

    def wait_for(self, **states: str) -> State:
        """Returns how the workers do once they are in `states`."""

        def there() -> State | None:
            workers = self.workers
            return workers if {name: worker["state"] for name, worker in workers.items()} == states else None

        return wait_until(there, what=f"{states}; {self.output()}")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def exit_code(self) -> int:
        wait_until(lambda: not self.alive, what=f"the launcher ended; {self.output()}")
        assert self.popen
        return self.popen.returncode

    def children(self, name: str) -> list[int]:
        """The children of all the processes that the worker had."""
        return [int(pid) for pid in (self.folder / f"children-{name}").read_text().split()]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., SmallNode]]:
    """Starts launchers: `node(2)` with two workers, its grace `timeout_s` seconds; `broken` fail from the start."""
    started: list[SmallNode] = []
    folder = tmp_path / "fleet"
    folder.mkdir()

    def start(workers: int = 1, *broken: str, timeout_s: float = 60.0) -> SmallNode:
        for name in broken:
            (folder / f"broken-{name}").touch()
        started.append(SmallNode(folder, workers, timeout_s))
        started[-1].spawn()
        return started[-1]

    yield start
    for launcher in started:
        launcher.kill()


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def ask_status(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workers.gpu", "--status"]
    env = {**os.environ, "FLEET_DIR": str(folder)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_the_status_names_every_worker_with_its_device_while_the_launcher_runs(
    node: Callable[..., SmallNode],
) -> None:
    launcher = node(2)
    workers = launcher.wait_for(gpu0="ready", gpu1="ready")
    assert [worker["devices"] for worker in workers.values()] == [["GPU-0"], ["GPU-1"]]
    assert all(lives(worker["pid"]) and worker["since"] for worker in workers.values())
    assert {(worker["restarts"], worker["last_exit"]) for worker in workers.values()} == {(0, None)}
    assert (launcher.folder / "gpu.json").stat().st_mode & 0o777 == 0o600

    asked = ask_status(launcher.folder)
    assert (asked.returncode, asked.stdout) == (0, (launcher.folder / "gpu.json").read_text())
    assert json.loads(asked.stdout)["pid"] == launcher.pid

    launcher.signal(signal.SIGINT)
    assert launcher.exit_code() == 0
    assert not (launcher.folder / "gpu.json").exists()
    assert ask_status(launcher.folder).returncode == 3


def test_nothing_of_a_killed_worker_is_left_when_it_is_started_again(node: Callable[..., SmallNode]) -> None:
    launcher = node()
    first = launcher.wait_for(gpu0="ready")["gpu0"]
    os.kill(first["pid"], signal.SIGKILL)
    second = wait_until(
        lambda: worker if (worker := launcher.workers["gpu0"])["state"] == "ready" and worker["restarts"] else None,
        what="it is ready again",
    )
    assert second["pid"] != first["pid"]
    assert (second["restarts"], second["last_exit"]) == (1, -signal.SIGKILL)
    assert (launcher.folder / "logs" / "gpu0.log").read_text().count("orphans: []") == 2
    assert "gpu0: ended with status -9, starts again in 0.2 s" in launcher.output()
    assert [lives(child) for child in launcher.children("gpu0")] == [False, True]


def test_a_bad_device_does_not_end_the_others_and_says_what_is_wrong(node: Callable[..., SmallNode]) -> None:
    launcher = node(2, "gpu1")
    wait_until(lambda: launcher.workers.get("gpu1", {}).get("restarts", 0) >= 2, what="it was tried again")
    assert launcher.workers["gpu0"]["state"] == "ready"
    assert launcher.workers["gpu1"]["last_exit"] == 1
    reason = "gpu1: ended with status 1: workers.gpu: cannot load nowhere on GPU-1, starts again in"
    assert f"{reason} 0.2 s" in launcher.output()
    assert f"{reason} 0.4 s" in launcher.output()

    (launcher.folder / "broken-gpu1").unlink()
    launcher.wait_for(gpu0="ready", gpu1="ready")
    assert launcher.workers["gpu0"]["restarts"] == 0


def test_a_launcher_of_which_no_worker_starts_ends_with_the_reason(node: Callable[..., SmallNode]) -> None:
    launcher = node(2, "gpu0", "gpu1")
    assert launcher.exit_code() == 1
    for number in (0, 1):
        assert f"workers.gpu: cannot load nowhere on GPU-{number}" in launcher.output()
    assert launcher.output().rstrip().endswith("no worker could be started")
    assert not (launcher.folder / "gpu.json").exists()


def test_a_worker_that_served_is_tried_again_even_when_it_is_the_only_one(node: Callable[..., SmallNode]) -> None:
    launcher = node()
    first = launcher.wait_for(gpu0="ready")["gpu0"]
    (launcher.folder / "broken-gpu0").touch()
    os.kill(first["pid"], signal.SIGKILL)
    wait_until(lambda: launcher.workers["gpu0"]["last_exit"] == 1, what="it failed to start")
    (launcher.folder / "broken-gpu0").unlink()
    launcher.wait_for(gpu0="ready")


def test_sigterm_lets_workers_finish_and_leaves_their_engines_to_them(node: Callable[..., SmallNode]) -> None:
    launcher = node(2)
    launcher.wait_for(gpu0="ready", gpu1="ready")
    launcher.signal(signal.SIGTERM)
    launcher.wait_for(gpu0="draining", gpu1="draining")
    assert not list(launcher.folder.glob("drained-*"))
    (launcher.folder / "finish").touch()
    assert launcher.exit_code() == 0
    drained = {path.name: path.read_text() for path in launcher.folder.glob("drained-*")}
    assert drained == {"drained-gpu0": "with its child", "drained-gpu1": "with its child"}
    assert not any(lives(child) for name in ("gpu0", "gpu1") for child in launcher.children(name))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_drain(number: int, node: Callable[..., SmallNode]) -> None:
    launcher = node(timeout_s=3600)
    launcher.wait_for(gpu0="ready")
    launcher.signal(signal.SIGTERM)
    worker = launcher.wait_for(gpu0="draining")["gpu0"]
    launcher.signal(number)
    assert launcher.exit_code() == 0
    assert not lives(worker["pid"])
    assert not any(lives(child) for child in launcher.children("gpu0"))


def test_a_worker_that_does_not_finish_within_the_grace_is_killed(node: Callable[..., SmallNode]) -> None:
    launcher = node(timeout_s=0.3)
    launcher.wait_for(gpu0="ready")
    launcher.signal(signal.SIGTERM)
    assert launcher.exit_code() == 0
    assert "letting running work end, for up to 0.3 s" in launcher.output()
    assert "gpu0: did not end within" in launcher.output()
    assert not any(lives(child) for child in launcher.children("gpu0"))


def test_a_second_launcher_in_a_folder_is_refused(node: Callable[..., SmallNode]) -> None:
    first = node()
    first.wait_for(gpu0="ready")
    second = node()
    assert second.exit_code() == 1
    assert f"a GPU launcher is running in {first.folder} already (pid {first.pid})" in second.output()
    assert first.workers["gpu0"]["state"] == "ready"


def test_nothing_outlives_a_killed_launcher_and_the_next_one_waits_for_that(node: Callable[..., SmallNode]) -> None:
    first = node()
    worker = first.wait_for(gpu0="ready")["gpu0"]
    first.signal(signal.SIGKILL)
    first.exit_code()
    assert ask_status(first.folder).returncode == 3
    second = node()
    wait_until(lambda: second.workers.get("gpu0", {}).get("pid") not in (None, worker["pid"]), what="it has a worker")
    assert not lives(worker["pid"])
    assert not lives(first.children("gpu0")[0])
    second.wait_for(gpu0="ready")
