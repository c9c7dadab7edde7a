"""What the doctor finds, and what it tells to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from fleet.cluster import WorkerState
from tests.integration.cli.conftest import Served

Parts = dict[str, dict[str, Any]]


def examined(served: Served, **env: str) -> tuple[int, Parts]:
    """The exit code, and the parts by name."""
    code, text, error = served.start("doctor", "--json", **env).finished()
    assert error == ""
    document = json.loads(text)
    assert document["ok"] is (code == 0)
    return code, {part["name"]: part for part in document["items"]}


def report_worker(served: Served, *queues: str) -> None:
    state = {"worker": "w@vm", "host": "vm", "pid": 1, "pool": "threads", "slots": 8}
    served.store.workers.report(WorkerState(**state, queues=queues, at_ms=served.store.workers.now_ms()))


def test_a_fleet_with_all_its_parts_is_well(served: Served) -> None:
    report_worker(served, "agents", "council")
    code, parts = examined(served)
    assert code == 0, parts
    assert parts["api"]["state"].startswith("version ")
    assert {"settings", "key", "valkey", "neo4j", "nats", "workers", "queue agents", "queue council"} <= set(parts)


def test_a_queue_without_a_worker_is_named_with_the_command_that_starts_one(served: Served) -> None:
    report_worker(served, "agents")
    code, parts = examined(served)
    assert code == 1
    assert parts["queue agents"]["ok"]
    assert parts["queue council"]["remedy"] == "celery -A fleet worker -Q council"


def test_a_wrong_key_is_named(served: Served) -> None:
    code, parts = examined(served, FLEET_API_KEY="wrong")
    assert code == 1
    assert "FLEET_API_KEY" in parts["key"]["remedy"]


def test_an_api_that_does_not_answer_is_named(served: Served) -> None:
    code, parts = examined(served, FLEET_URL="http://127.0.0.1:9")
    assert code == 1
    assert "fleet up" in parts["api"]["remedy"]
    assert "valkey" not in parts


def test_another_server_is_no_fleet(served: Served) -> None:
    _, parts = examined(served, FLEET_URL=f"http://127.0.0.1:{served.api.port}/docs")
    assert "is no fleet" in parts["api"]["state"]


def test_when_nothing_runs_it_says_how_to_start(served: Served, tmp_path: Path) -> None:
    code, parts = examined(served, FLEET_URL="", FLEET_DIR=str(tmp_path))
    assert code == 1
    assert str(tmp_path) in parts["fleet"]["state"]
    assert "fleet up" in parts["fleet"]["remedy"]


def test_a_wrong_setting_is_named(served: Served) -> None:
    code, parts = examined(served, FLEET_ENGINE="steam")
    assert code == 1
    assert "engine" in parts["settings"]["state"].lower()
    assert "fleet config show" in parts["settings"]["remedy"]


@pytest.mark.parametrize(("engine", "needed"), [("local", True), ("openai", False)])
def test_the_model_is_needed_by_the_local_engine_only(
    served: Served, tmp_path: Path, engine: str, needed: bool
) -> None:
    _, parts = examined(served, FLEET_ENGINE=engine, FLEET_CACHE_DIR=str(tmp_path))
    model = parts["model smollm2-135m"]
    assert (model["ok"], model["needed"], model["remedy"]) == (False, needed, "fleet models fetch")


def test_people_get_a_table(served: Served) -> None:
    report_worker(served, "agents")
    code, text, _ = served.start("doctor").finished()
    assert code == 1
    assert "✓ │ valkey" in text
    assert "✗ │ queue council" in text
