"""`fleet config show`."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fleet.cli import main
from fleet.settings import Settings, get_settings, variables


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(os.environ) & {variable for field in Settings.model_fields for variable in variables(field)}:
        monkeypatch.delenv(name)
    get_settings.cache_clear()


def show(*options: str) -> str:
    done = CliRunner().invoke(main, ["config", "show", *options])
    get_settings.cache_clear()
    assert done.exit_code == 0, done.output
    return done.stdout


def items() -> dict[str, Any]:
    return {item["name"]: item for item in json.loads(show("--json"))["items"]}


def test_every_setting_is_shown_with_its_variable_and_description() -> None:
    shown = items()
    assert list(shown) == list(Settings.model_fields)
    assert shown["queue_ttl_s"] == {
        "name": "queue_ttl_s",
        "variable": "FLEET_QUEUE_TTL_S",
        "value": 86400,
        "source": "default",
        "description": Settings.model_fields["queue_ttl_s"].description,
    }


def test_each_value_has_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("engine_slots: 7\nagents_per_council: 4\npart_deaths: 2\n")
    monkeypatch.setenv("FLEET_CONFIG", str(file))
    monkeypatch.setenv("NUM_AGENTS_PER_COUNCIL", "2")
    monkeypatch.setenv("FLEET_PART_DEATHS", "3")
    shown = items()
    assert [(shown[name]["value"], shown[name]["source"]) for name in ("engine_slots", "agents_per_council")] == [
        (7, f"file {file}"),
        (2, "environment NUM_AGENTS_PER_COUNCIL"),
    ]
    assert (shown["part_deaths"]["value"], shown["part_deaths"]["source"]) == (3, "environment FLEET_PART_DEATHS")


def test_no_secret_is_shown_but_whether_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_VALKEY_URL", "redis://:hunter2@127.0.0.1:1/0")
    monkeypatch.setenv("NATS_URL", "nats://hunter2@127.0.0.1:1")
    monkeypatch.setenv("FLEET_API_KEY", "hunter2")
    shown = items()
    assert shown["valkey_url"]["value"] == "redis://:***@127.0.0.1:1/0"
    assert (shown["api_key"]["value"], shown["engine_key"]["value"]) == ("***", "")
    assert "hunter2" not in show() + show("--json")


def test_people_get_a_table() -> None:
    shown = show()
    assert all(name in shown for name in Settings.model_fields)
    assert "default" in shown


def test_wrong_settings_are_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_ENGIN", "local")
    done = CliRunner().invoke(main, ["config", "show"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "did you mean FLEET_ENGINE?" in done.stderr
