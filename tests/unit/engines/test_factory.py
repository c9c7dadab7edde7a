import subprocess
import sys

import pytest

from fleet.engines import ENGINES, EngineConfig, create_engine
from fleet.errors import InvalidRequest
from fleet.settings import Settings


@pytest.mark.parametrize("name", ENGINES)
def test_the_engine_made_is_the_one_asked_for(name: str) -> None:
    engine = create_engine(EngineConfig(name=name))
    assert engine.name == name
    engine.close()


def test_an_unknown_engine_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(InvalidRequest, match="openai, local, scripted"):
        create_engine(EngineConfig(name="mock"))


@pytest.mark.parametrize(
    ("name", "libraries"),
    [("scripted", {"openai", "xllamacpp"}), ("local", {"openai", "xllamacpp"}), ("openai", {"xllamacpp"})],
)
def test_an_engine_imports_no_library_of_another(name: str, libraries: set[str]) -> None:
    program = (
        "import sys; from fleet.engines import EngineConfig, create_engine;"
        f"create_engine(EngineConfig(name={name!r})); print(*sorted({libraries} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == ""


def test_the_key_is_not_in_the_repr() -> None:
    config = EngineConfig(name="openai", api_key="sk-secret")
    assert "sk-secret" not in repr(config)


def test_the_settings_reach_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_ENGINE", "scripted")
    monkeypatch.setenv("FLEET_ENGINE_KEY", "sk-secret")
    monkeypatch.setenv("FLEET_SCRIPTED_BEHAVIOURS", "*-003=poor")
    monkeypatch.setenv("FLEET_SCRIPTED_LATENCY_S", "0.5")
    monkeypatch.setenv("FLEET_ENGINE_SLOTS", "3")
    config = EngineConfig.from_settings(Settings())
    assert (config.name, config.api_key, config.latency_s, config.slots) == ("scripted", "sk-secret", 0.5, 3)
    assert config.behaviours == {"*-003": "poor"}
