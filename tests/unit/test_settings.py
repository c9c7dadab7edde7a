"""Settings from the environment."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from fleet.settings import Settings


def test_behaviours_are_read_from_one_line_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_SCRIPTED_BEHAVIOURS", " agent-dev-002=silent, *-003 = poor,")
    assert Settings().scripted_behaviours == {"agent-dev-002": "silent", "*-003": "poor"}


def test_a_behaviour_without_a_pattern_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_SCRIPTED_BEHAVIOURS", "agent-dev-002")
    with pytest.raises(ValidationError, match="not pattern=behaviour: agent-dev-002"):
        Settings()


def test_the_variables_of_the_original_are_accepted_and_fleets_own_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIBERATION_TIMEOUT", "120")
    monkeypatch.setenv("NUM_AGENTS_PER_COUNCIL", "5")
    assert (Settings().deliberation_timeout_s, Settings().agents_per_council) == (120, 5)
    monkeypatch.setenv("FLEET_DELIBERATION_TIMEOUT_S", "60")
    assert Settings().deliberation_timeout_s == 60


def test_the_small_model_is_asked_for_less_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_ENGINE", "openai")
    large = Settings()
    monkeypatch.setenv("FLEET_ENGINE", "local")
    small = Settings()
    assert small.proposal_chars < large.proposal_chars
    assert small.request_timeout_s > large.request_timeout_s
    monkeypatch.setenv("FLEET_PROPOSAL_CHARS", "700")
    assert Settings().proposal_chars == 700


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_VALKEY_URL", "redis://:hunter2@127.0.0.1:1/0")
    monkeypatch.setenv("FLEET_API_KEY", "hunter2")
    assert "hunter2" not in repr(Settings())


def test_a_wrong_setting_ends_a_command_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_ENGINE", "magic")
    done = subprocess.run(
        [sys.executable, "-m", "fleet.cli", "council", "list"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "FLEET_ENGINE" in done.stderr
    assert "Traceback" not in done.stderr
