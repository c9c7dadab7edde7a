"""Where settings come from: the environment and the file that FLEET_CONFIG names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, YamlConfigSettingsSource
from yaml import MarkedYAMLError, YAMLError

from fleet.errors import FleetError

CONFIG = "FLEET_CONFIG"
ORIGINALS = {
    "valkey_url": "VALKEY_URL",
    "nats_url": "NATS_URL",
    "nats_enabled": "ENABLE_NATS",
    "neo4j_uri": "NEO4J_URI",
    "neo4j_user": "NEO4J_USER",
    "neo4j_password": "NEO4J_PASSWORD",
    "engine": "AGENT_TYPE",
    "engine_url": "VLLM_URL",
    "model": "VLLM_MODEL",
    "auto_init_councils": "AUTO_INIT_COUNCILS",
    "agents_per_council": "NUM_AGENTS_PER_COUNCIL",
    "deliberation_timeout_s": "DELIBERATION_TIMEOUT",
    "deliberation_retention_s": "DELIBERATION_CLEANUP",
    "context_cache_ttl_s": "CONTEXT_CACHE_TTL",
    "log_level": "LOG_LEVEL",
    "log_format": "LOG_FORMAT",
}


class WrongSettings(FleetError):
    """The process cannot start like this. The message names every setting that is wrong, and no secret."""


def variables(name: str) -> tuple[str, ...]:
    """The environment's variables for a setting, Fleet's own first."""
    original = ORIGINALS.get(name)
    return (f"FLEET_{name.upper()}", *([original] if original else []))


def config_file() -> Path | None:
    """The file that FLEET_CONFIG names."""
    named = os.environ.get(CONFIG)
    return Path(named).expanduser() if named else None


def file_sources(cls: type[BaseSettings]) -> list[YamlConfigSettingsSource]:
    path = config_file()
    if path is None:
        return []
    if not path.is_file():  # which pydantic-settings would pass over
        raise WrongSettings(f"{CONFIG}: there is no file {path}")
    try:
        return [YamlConfigSettingsSource(cls, path)]
    except OSError as error:
        raise WrongSettings(f"{CONFIG}: {path} cannot be read: {error.strerror}") from None
    except MarkedYAMLError as error:  # its text may show a secret
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise WrongSettings(f"{CONFIG}: {path}{line}: not YAML") from None
    except (YAMLError, ValueError, TypeError, AttributeError):
        raise WrongSettings(f"{CONFIG}: {path} is not a YAML mapping of settings to values") from None


def origin(name: str, environment: Mapping[str, str], from_file: Mapping[str, Any]) -> str | None:
    """The variable that a setting's value comes from, else `CONFIG` if it is in the file, else None: the default."""
    variable = next((variable for variable in variables(name) if environment.get(variable)), None)
    return variable or (CONFIG if name in from_file else None)
