"""A whole fleet, started by its own command, with scripted agents of several behaviours."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness import Process, wait_until

FINAL = {"COMPLETED", "PARTIAL", "FAILED", "CANCELLED"}
BEHAVIOURS = "agent-qa-003=poor,agent-devops-002=silent,agent-data-*=silent,agent-architect-*=error-prone"


@dataclass
class RunningFleet:
    """A `fleet up` and what its fleet.json says, read afresh each time since pids change."""

    process: Process
    folder: Path

    @property
    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "fleet.json").read_text())
        return found

    @property
    def http(self) -> httpx2.Client:
        details = self.details
        return httpx2.Client(
            base_url=details["api_url"], headers={"Authorization": f"Bearer {details['api_key']}"}, timeout=70
        )

    def cli(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs `fleet …` as a user would, against this fleet."""
        return subprocess.run(
            [sys.executable, "-m", "fleet.cli", *arguments],
            env={**os.environ, "FLEET_DIR": str(self.folder)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def submit(self, plan: dict[str, Any]) -> list[str]:
        """Hands in a plan by HTTP; the ids of its deliberations."""
        answer = self.http.post("/v1/plans", json=plan)
        assert answer.status_code == 202, answer.text
        return [one["deliberation_id"] for one in answer.json()["deliberations"]]

    def final(self, id: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """The deliberation, once it is final."""
        seen: dict[str, Any] = {}

        def look() -> dict[str, Any] | None:
            nonlocal seen
            try:
                answer = self.http.get(f"/v1/deliberations/{id}", params={"wait": 5})
                seen = answer.json()
            except (httpx2.TransportError, OSError, ValueError):
                return None
            return seen if answer.status_code == 200 and seen["status"] in FINAL else None

        try:
            found = wait_until(look, timeout_s, f"deliberation {id} is final")
        except AssertionError as error:
            error.add_note(f"seen last: {seen}")
            raise
        assert found is not None
        return found


def start_fleet(folder: Path, **settings: str) -> RunningFleet:
    """Starts `fleet up --engine scripted` and waits until it says that it is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fleet.cli", "up", "--dir", str(folder), "--engine", "scripted"]
    process = Process(command, folder / "up.log", env=settings)
    process.start()
    wait_until(
        lambda: (folder / "fleet.json").exists() or not process.alive, timeout_s=240, what=f"ready, {folder}/up.log"
    )
    assert process.alive, process.output()
    return RunningFleet(process, folder)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """A fleet shared by the tests of one file."""
    made = start_fleet(
        tmp_path_factory.mktemp("fleet"), FLEET_SCRIPTED_BEHAVIOURS=BEHAVIOURS, FLEET_REQUEST_TIMEOUT_S="2"
    )
    yield made
    made.process.stop(60)


@pytest.fixture
def new_plan() -> Callable[..., dict[str, Any]]:
    """Makes plans with an id of their own."""

    def make(**changes: Any) -> dict[str, Any]:
        id = uuid.uuid4().hex[:8]
        plan = {"plan_id": f"plan-{id}", "story_id": f"story-{id}", "title": "Reset a password", "roles": ["DEV"]}
        return {**plan, "description": "Write the function.", "approved_by": "po", "rounds": 1, **changes}

    return make
