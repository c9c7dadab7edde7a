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
from tests.harness import wait_until

NewPlan = Callable[..., dict[str, Any]]


def test_submitting_a_plan_and_waiting_shows_the_winner(fleet: RunningFleet, new_plan: NewPlan, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(new_plan()))
    done = fleet.cli("plan", "submit", str(file), "--wait")
    assert done.returncode == 0, done.stderr
    assert "Winner: agent-dev-" in done.stdout
    assert "review:1 begins" in done.stdout


def test_a_council_is_asked_watched_cancelled_and_asked_again(fleet: RunningFleet) -> None:
    asked = ("deliberation", "run", "Write a function that parses a date", "--timeout", "60", "--requirement", "fast")
    id = fleet.cli(*asked, "--role", "DEV", "--rounds", "0").stdout.strip()
    watched = fleet.cli("deliberation", "watch", id)
    assert watched.returncode == 0
    assert "Winner: agent-dev-" in watched.stdout
    again = json.loads(fleet.cli("deliberation", "replay", id, "--wait", "--json").stdout)
    assert (again["replay_of"], again["status"]) == (id, "COMPLETED")
    slow = fleet.cli(*asked, "--role", "DATA").stdout.strip()  # whose agents are silent for 2 s
    assert fleet.cli("deliberation", "cancel", slow).returncode == 0
    assert fleet.cli("deliberation", "watch", slow).returncode == 1
    listed = json.loads(fleet.cli("deliberation", "list", "--status", "CANCELLED", "--json").stdout)
    assert [one["deliberation_id"] for one in listed["items"]] == [slow]


def test_on_a_terminal_a_plan_is_shown_live(fleet: RunningFleet, new_plan: NewPlan, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(new_plan(roles=["DEV", "DEVOPS"])))
    done = subprocess.run(
        ["script", "-qec", f"{sys.executable} -m fleet.cli plan submit {tmp_path}/plan.json --wait", "/dev/null"],
        env={**os.environ, "FLEET_DIR": str(fleet.folder), "COLUMNS": "140", "LINES": "60", "TERM": "xterm"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "✓ " in done.stdout
    assert "✗ " in done.stdout  # one of the DEVOPS agents is silent
    assert "review:1" in done.stdout
    assert "Winner: agent-devops-" in done.stdout


def test_what_the_fleet_does_is_shown(fleet: RunningFleet, new_plan: NewPlan) -> None:
    [id] = fleet.submit(new_plan())
    fleet.final(id)
    subjects = {one["subject"] for one in json.loads(fleet.cli("events", "--json").stdout)["items"]}
    assert {"orchestration.task.dispatched", "context.decision.added"} <= subjects
    queues = json.loads(fleet.cli("queues", "--json").stdout)["items"]
    assert {one["queue"] for one in queues if one["workers"]} >= {"agents", "council"}
    assert json.loads(fleet.cli("cluster", "--json").stdout)["workers"]
    assert json.loads(fleet.cli("stats", "--json").stdout)["totals"]["accepted"] > 0
    assert fleet.cli("jobs").returncode == 0


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
        ("a: [", "line 1, column 5"),
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
    def listed() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(fleet.cli("council", "list", "--json").stdout)["items"]
        return found

    # The councils are made a moment after the fleet is ready.
    wait_until(lambda: len(listed()) == 5, 60, "the councils are made")
    found = listed()
    assert [one["role"] for one in found] == ["DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"]
    assert sum(len(one["agents"]) for one in found) == 15
    assert "agent-data-003" in fleet.cli("council", "list").stdout


def test_the_doctor_finds_every_part_of_a_running_fleet(fleet: RunningFleet) -> None:
    done = fleet.cli("doctor", "--json")
    parts = {part["name"]: part["ok"] for part in json.loads(done.stdout)["items"] if part["needed"]}
    assert {"api", "key", "valkey", "neo4j", "nats", "workers", "flower"} <= set(parts)
    assert all(parts.values()), done.stdout
    assert done.returncode == 0


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
