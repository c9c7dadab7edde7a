"""The whole fleet with its real processes, once."""

import base64
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet.stack.one_machine import embedded
from tests.harness import wait_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet") / "data"


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Iterator[dict[str, Any]]:
    with embedded(folder, "scripted") as info:
        yield info
    left = [process.pid for process in psutil.process_iter() if process.pid in info["pids"].values()]
    assert not left
    assert not (folder / "fleet.json").exists()


def status(url: str, login: str = "") -> int:
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_fleet_is_ready_when_its_file_says_so(fleet: dict[str, Any], folder: Path) -> None:
    assert status(f"{fleet['api_url']}/readyz") == 200
    assert set(fleet["pids"]) == {
        *("valkey", "nats", "neo4j", "listener", "api", "flower"),
        *("worker-agents", "worker-council-1", "worker-council-2"),
    }
    assert {path.stem for path in (folder / "logs").iterdir()} == set(fleet["pids"]) | {"up"}


def test_neither_the_api_nor_flower_is_open(fleet: dict[str, Any]) -> None:
    assert status(f"{fleet['api_url']}/v1/plans") == 401
    login, address = fleet["flower_url"].removeprefix("http://").split("@")
    assert status(f"http://{address}/workers") == 401
    assert status(f"http://{address}/workers", login) == 200


def test_no_password_is_on_a_command_line(fleet: dict[str, Any]) -> None:
    secrets = {fleet["api_key"], fleet["neo4j_password"], fleet["flower_url"].split("@")[0].rsplit(":", 1)[1]}
    secrets |= {fleet[url].split("@")[0].rsplit(":", 1)[1] for url in ("valkey_url", "nats_url")}
    assert len(secrets) == 5
    for pid in fleet["pids"].values():
        line = " ".join(psutil.Process(pid).cmdline())
        assert not any(secret in line for secret in secrets)


@pytest.mark.parametrize("name", ["worker-agents", "listener", "flower"])
def test_a_real_process_that_is_killed_comes_back(fleet: dict[str, Any], folder: Path, name: str) -> None:
    def pid() -> int:
        return int(json.loads((folder / "fleet.json").read_text())["pids"][name])

    before = pid()
    os.kill(before, signal.SIGKILL)
    after = wait_until(lambda: pid() != before and pid(), 20, f"{name} is started again")
    # Beyond the time in which a process that cannot start has ended.
    wait_until(lambda: f"{name}: ready" in (folder / "logs" / "up.log").read_text().split("starts again")[-1], 60)
    assert psutil.pid_exists(after)
    fleet["pids"][name] = after
