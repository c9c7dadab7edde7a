"""What a person types, and what it answers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.conftest import RunningFleet

NewPlan = Callable[..., dict[str, Any]]


def test_submitting_a_plan_and_waiting_shows_the_winner(fleet: RunningFleet, new_plan: NewPlan, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(new_plan()))
    done = fleet.cli("plan", "submit", str(file), "--wait")
    assert done.returncode == 0, done.stderr
    assert "Winner: agent-dev-" in done.stdout
    assert "review:1 begins" in done.stdout


def test_a_plan_is_read_from_standard_input_and_answered_as_json(fleet: RunningFleet, new_plan: NewPlan) -> None:
    done = fleet.cli("plan", "submit", "-", "--wait", "--json", stdin=json.dumps(new_plan()))
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)["deliberations"]
    assert found["status"] == "COMPLETED"
    again = fleet.cli("deliberation", "show", found["deliberation_id"], "--json")
    assert json.loads(again.stdout)["winner_id"] == found["winner_id"]
    shown = fleet.cli("deliberation", "watch", found["deliberation_id"])
    assert found["winner_id"] in shown.stdout


def test_waiting_for_a_plan_that_fails_ends_with_exit_code_1(fleet: RunningFleet, new_plan: NewPlan) -> None:
    done = fleet.cli("plan", "submit", "-", "--wait", stdin=json.dumps(new_plan(roles=["DATA"])))
    assert done.returncode == 1
    assert "a decision needs 2" in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"plan_id": "p"}', "story_id"),
        ("a: [", "neither JSON nor YAML"),
        ('{"plan_id": "p", "story_id": "s", "roles": ["WIZARD"]}', "roles"),
    ],
)
def test_a_bad_plan_is_bad_usage_and_the_reason_is_named(fleet: RunningFleet, text: str, message: str) -> None:
    done = fleet.cli("plan", "submit", "-", stdin=text)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_id_is_a_failure_in_one_sentence(fleet: RunningFleet) -> None:
    done = fleet.cli("deliberation", "show", "nobody")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_councils_are_listed_with_their_agents(fleet: RunningFleet) -> None:
    found = json.loads(fleet.cli("council", "list", "--json").stdout)["items"]
    assert [one["role"] for one in found] == ["DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"]
    assert sum(len(one["agents"]) for one in found) == 15
    assert "agent-data-003" in fleet.cli("council", "list").stdout


def test_the_doctor_finds_every_part_of_a_running_fleet(fleet: RunningFleet) -> None:
    done = fleet.cli("doctor", "--json")
    parts = {part["name"]: part["ok"] for part in json.loads(done.stdout)["items"]}
    assert {"api", "valkey", "neo4j", "nats"} <= set(parts)
    assert all(parts[name] for name in ("api", "valkey", "neo4j", "nats")), done.stdout


def test_a_second_fleet_in_the_same_folder_is_refused(fleet: RunningFleet) -> None:
    done = fleet.cli("up", "--engine", "scripted")
    assert done.returncode == 1
    assert str(fleet.process.pid) in done.stderr


def test_without_a_fleet_the_exit_code_is_3_and_the_remedy_is_named(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEET_")}
    done = subprocess.run(
        [sys.executable, "-m", "fleet.cli", "council", "list"],
        env={**environment, "FLEET_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "fleet up" in done.stderr


def test_a_fleet_that_does_not_answer_is_exit_code_3(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fleet.cli", "council", "list"],
        env={**os.environ, "FLEET_URL": "http://127.0.0.1:9", "FLEET_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "127.0.0.1:9" in done.stderr


def test_every_verb_has_help() -> None:
    for verb in ([], ["plan", "submit"], ["deliberation", "watch"], ["up"], ["demo"], ["doctor"], ["models", "fetch"]):
        done = subprocess.run(
            [sys.executable, "-m", "fleet.cli", *verb, "--help"], capture_output=True, text=True, check=True
        )
        assert "Usage:" in done.stdout
