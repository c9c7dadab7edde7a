"""What a node's workers are started with, and the files beside the launcher."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet.settings import get_settings, load
from workers.gpu import launcher
from workers.gpu.__main__ import main
from workers.gpu.devices import Group, NodeDevice, WrongDevices
from workers.gpu.launcher import GpuWorker
from workers.gpu.status import StatusFile, WorkerStatus

SYSTEMD = Path(__file__).parents[3] / "deploy" / "systemd"
ONE, OTHER = NodeDevice("GPU-a", "0"), NodeDevice("GPU-b", "1")
PAIR: Group = (ONE, OTHER)


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FLEET_DIR", str(tmp_path / "fleet"))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def worker(folder: Path, group: Group, *queues: str) -> GpuWorker:
    return GpuWorker(3, group, queues or ["gpu"], folder / "gpu3.log", {})


def environment_file() -> dict[str, str]:
    """The example's settings, with those that are commented out."""
    lines = [line.lstrip("#") for line in (SYSTEMD / "gpu.env.example").read_text().splitlines()]
    found = [re.fullmatch(r"([A-Z_]+)=('?)(.*)\2", line) for line in lines]
    return {match[1]: match[3] for match in found if match}


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(SYSTEMD / "fleet-gpu.service")
    return parser


def test_a_worker_sees_its_devices_alone_and_has_its_number_in_its_name(tmp_path: Path) -> None:
    made = worker(tmp_path, PAIR, "gpu", "gpu.qwen3-8b")
    assert made.env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    line = "-m celery -A workers.gpu worker -n gpu3@%h -E -l INFO -Q gpu,gpu.qwen3-8b"
    assert made.command == [sys.executable, *line.split()]
    assert made.name == "gpu3"


def test_a_worker_without_a_device_sees_none(tmp_path: Path) -> None:
    assert worker(tmp_path, ()).env["CUDA_VISIBLE_DEVICES"] == ""


def test_a_worker_runs_on_the_processors_near_its_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    near, also = NodeDevice("GPU-a", "0", frozenset({2, 3})), NodeDevice("GPU-b", "1", frozenset({5, 64}))
    assert worker(tmp_path, (near,)).command[:4] == ["/bin/taskset", "-c", "2-3", sys.executable]
    assert launcher.near([near, also]) == ["/bin/taskset", "-c", "2-3,5"]


@pytest.mark.parametrize("cpus", [set(), set(range(12)), {64}])
def test_a_worker_runs_anywhere_where_nothing_is_near_or_everything(
    cpus: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    assert launcher.near([NodeDevice("GPU-a", "0", frozenset(cpus))]) == []


def test_without_taskset_a_worker_runs_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert launcher.near([NodeDevice("GPU-a", "0", frozenset({0}))]) == []


def test_a_model_is_spread_over_the_devices_of_a_group() -> None:
    settings = load(gpu_engine_args={"max_model_len": 512})
    [(name, text)] = launcher.engine_env(settings, [PAIR]).items()
    assert name == "FLEET_GPU_ENGINE_ARGS"
    assert json.loads(text) == {"max_model_len": 512, "tensor_parallel_size": 2}
    same = load(gpu_engine_args={"tensor_parallel_size": 2})
    assert launcher.engine_env(same, [PAIR]) == {name: '{"tensor_parallel_size": 2}'}


@pytest.mark.parametrize("group", [(), (ONE,)])
def test_the_engines_arguments_stay_as_they_are_where_nothing_is_spread(group: Group) -> None:
    assert launcher.engine_env(load(gpu_engine_args={"max_model_len": 512}), [group]) == {}


def test_engine_arguments_that_want_more_devices_than_a_worker_has_are_refused() -> None:
    settings = load(gpu_engine_args={"tensor_parallel_size": 4})
    with pytest.raises(WrongDevices, match="ARGS asks for a tensor_parallel_size of 4, and each worker has 1 device"):
        launcher.engine_env(settings, [(ONE,), (OTHER,)])


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("", ""),
        ("loading\nworker: cannot load nowhere\n\n", "worker: cannot load nowhere"),
        (
            "worker: cannot load nowhere\n/lib/resource_tracker.py:254: UserWarning: leaked semaphores\n"
            "  warnings.warn('resource_tracker: leaked')\n",
            "worker: cannot load nowhere",
        ),
        (
            'worker: cannot load nowhere\n{"event": "reporter.valkey_away", "level": "warning", "reason": "refused"}',
            "worker: cannot load nowhere",
        ),
        (
            'started\n{"event": "engine.died", "level": "critical", "reason": "killed"}\n'
            '{"event": "task.ended", "level": "info"}\n',
            "engine.died: killed",
        ),
        ("Traceback (most recent call last):\n  File x\nValueError: {}", "ValueError: {}"),
        ("{no record", "{no record"),
    ],
)
def test_why_a_worker_ended_is_the_last_that_it_wrote_as_a_reason(tmp_path: Path, written: str, words: str) -> None:
    made = worker(tmp_path, ())
    assert made.last_words() == ""
    made.log.write_text(written)
    assert made.last_words() == words


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cpu", "--devices", "0"], "--cpu is for no device"),
        (["--cpu", "--queues", "agents"], "not gpu and not gpu.MODEL: 'agents'"),
        (["--cpu", "--queues", "gpu,"], "not gpu and not gpu.MODEL: ''"),
        (["--cpu", "--queues", "gpu.Qwen/Qwen3"], "not gpu and not gpu.MODEL"),
        (["--devices", "0;0"], "named twice: 0"),
        (["--devices", "0,1;2"], "differ in size"),
    ],
)
def test_wrong_options_are_refused_with_code_2_and_the_reason(options: list[str], said: str) -> None:
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_wrong_settings_are_refused_with_code_2_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_GPU_MODLE", "x")
    result = CliRunner().invoke(main, ["--cpu"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "FLEET_GPU_MODLE: there is no such setting, did you mean FLEET_GPU_MODEL?" in result.stderr


def test_a_missing_driver_ends_it_with_code_1_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    result = CliRunner().invoke(main, [])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_the_status_of_no_launcher_is_code_3(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--status"])
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"no launcher runs in {tmp_path / 'fleet'}" in result.stderr


def test_a_status_that_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    folder.touch()
    file, workers = StatusFile(folder), [WorkerStatus("gpu0", 7, ("GPU-a",), "ready", 0, None)]
    file.update(workers)
    folder.unlink()
    file.update(workers)
    assert json.loads((folder / "gpu.json").read_text())["workers"][0]["state"] == "ready"


def test_a_gpu_node_needs_no_graph_bus_or_api() -> None:
    forbidden = "fleet.graph", "fleet.bus", "fleet.api", "neo4j", "nats", "flask", "jgo", "jpype", "requests", "torch"
    code = f"import sys, workers.gpu.__main__; print([name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "[]\n"


def test_systemd_gives_a_drain_longer_than_the_launcher_does_and_ends_the_launcher_alone() -> None:
    service = unit()["Service"]
    settings = load(request_timeout_s=float(environment_file()["FLEET_REQUEST_TIMEOUT_S"]))
    assert float(service["TimeoutStopSec"]) > settings.request_timeout_s + launcher.GRACE_S + 10
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "always"
    assert f"FLEET_DIR=/var/lib/{service['StateDirectory']} " in service["Environment"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    text = (SYSTEMD / "fleet-gpu.service").read_text().replace("/opt/fleet/.venv/bin/python", sys.executable)
    (tmp_path / "fleet-gpu.service").write_text(text)
    command = ["systemd-analyze", "verify", str(tmp_path / "fleet-gpu.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_example_of_an_environment_file_has_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (example := environment_file()).items():
        monkeypatch.setenv(name, "" if name == "FLEET_VALKEY_CA_FILE" else value)  # its file is not there
    assert load().gpu_model == example["FLEET_GPU_MODEL"]
    assert load().gpu_engine_args["max_model_len"] == 16384
    assert "$GPU_WORKER_OPTIONS" in unit()["Service"]["ExecStart"]
    named = example["GPU_WORKER_OPTIONS"].split()
    assert main.make_context("", [*named, "--status"]).params["named"] == "0,1;2,3"
