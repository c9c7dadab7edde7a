"""What `fleet up --engine vllm` tells its processes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from fleet.models import Role
from fleet.settings import Settings
from fleet.stack import processes, vllm
from fleet.stack.errors import EngineRefused
from fleet.stack.processes import Fleet, GpuWorker


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """A fleet on a machine that has vLLM, with the small model made."""
    monkeypatch.setattr(vllm, "check", lambda: None)
    made = Fleet(tmp_path, "vllm", None)
    made.model = tmp_path / "small"
    return made


def worker(fleet: Fleet) -> GpuWorker:
    fleet.connect()
    [found] = [worker for worker in fleet.workers if isinstance(worker, GpuWorker)]
    return found


def test_without_vllm_the_engine_is_refused_in_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EngineRefused, match=r"pip install .*make test-vllm.*local, scripted or openai") as refused:
        processes.check_engine("vllm")
    assert "\n" not in str(refused.value)


def test_a_fleet_with_vllm_gives_agents_work_to_one_worker_that_configures_itself(fleet: Fleet) -> None:
    command = worker(fleet).command
    assert command[command.index("-A") + 1] == "workers.gpu"
    assert command[command.index("-Q") + 1] == "gpu"
    assert not {"-P", "-c", "--pool", "--concurrency"} & set(command)
    assert {process.env["FLEET_AGENT_QUEUE"] for process in (fleet.api, fleet.listener, *fleet.workers)} == {"gpu"}


def test_a_user_who_names_no_model_gets_the_small_one_with_settings_that_suit_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = worker(fleet).env
    given = {name: value for name, value in env.items() if name.startswith("FLEET_") and value}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.gpu_model == str(fleet.model)
    assert (settings.gpu_slots, settings.proposal_chars, settings.shown_chars) == (8, 1200, 1500)
    assert settings.gpu_engine_args["max_model_len"] == 4096
    assert {settings.profiles[role].temperature for role in Role} == {0.28}
    assert env["HF_HUB_OFFLINE"] == "1"


def test_what_the_user_says_goes_before_what_suits_the_small_model(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "fleet.yaml"
    config.write_text("gpu_slots: 3\n")
    monkeypatch.setenv("FLEET_CONFIG", str(config))
    monkeypatch.setenv("FLEET_REQUEST_TIMEOUT_S", "9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    settings = fleet.settings()
    assert not {"FLEET_GPU_SLOTS", "FLEET_REQUEST_TIMEOUT_S"} & set(settings)
    assert json.loads(settings["FLEET_GPU_ENGINE_ARGS"])["max_model_len"] == 4096
    assert "HF_HUB_OFFLINE" not in vllm.worker_environment()


def test_a_model_of_the_users_is_loaded_as_vllm_itself_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_GPU_MODEL", "someone/their-model")
    assert not vllm.small_model()
    assert vllm.settings() == {"agent_queue": "gpu"}
    assert vllm.worker_environment() == {}


def test_the_gpu_worker_hears_of_neither_neo4j_nor_nats(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEO4J_PASSWORD", "from the user's shell")
    env = {name: value for name, value in worker(fleet).env.items() if value}
    assert env["FLEET_VALKEY_URL"] == fleet.valkey.url
    assert not [name for name in env if "NEO4J" in name or "NATS" in name]
    assert fleet.neo4j.password not in env.values()


def test_a_model_that_cannot_be_made_is_a_refusal_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(returncode=1, stderr="a warning\ncannot store smollm2-135m: No space left\n", stdout="")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: failed)
    with pytest.raises(EngineRefused, match="there is no model for vLLM: cannot store smollm2-135m: No space left"):
        vllm.make_model(lambda _: None)
