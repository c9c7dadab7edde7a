"""Reads the settings, and refuses what is misspelt, said twice or contradictory before anything connects."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from fleet.settings.sources import CONFIG, WrongSettings, config_file, file_sources, origin, variables
from fleet.settings.tree import Settings

# Read by the command line alone, which may be on a machine without a fleet.
OTHER_VARIABLES = (CONFIG, "FLEET_URL")
# What Kubernetes and Docker tell every container of a service that is named fleet or fleet-….
_LINK = re.compile(
    r"FLEET_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)=|PORT=(tcp|udp|sctp)://|PORT_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?=)"
)


def file_settings() -> dict[str, Any]:
    """What the file says, unchecked; empty without one. Raises: WrongSettings when it cannot be read."""
    return {str(key): value for source in file_sources(Settings) for key, value in source.yaml_data.items()}


def load(**given: Any) -> Settings:
    """Reads the settings; what is given here beats the environment.

    Raises: WrongSettings naming everything that is wrong: unknown names and values, double and contradictory ones.
    """
    from_file = file_settings()
    faults = [*_unknown(from_file), *_said_twice()]
    try:
        settings = Settings(**given)
    except ValidationError as error:
        faults += [text for fault in error.errors() if (text := _describe(fault, from_file))]
    if faults:
        raise WrongSettings("; ".join(faults))
    return settings


def _unknown(from_file: Mapping[str, Any]) -> Iterator[str]:
    known = [variables(name)[0] for name in Settings.model_fields] + list(OTHER_VARIABLES)
    for variable in sorted(set(os.environ) - set(known)):
        value = os.environ[variable]
        if value and variable.startswith("FLEET_") and not _LINK.match(f"{variable}={value}"):
            yield f"{variable}: there is no such setting{_meant(variable, known)}"
    for key in sorted(set(from_file) - set(Settings.model_fields)):
        yield f"{key} in {config_file()}: there is no such setting{_meant(key.lower(), list(Settings.model_fields))}"


def _meant(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


def _said_twice() -> Iterator[str]:
    for name in Settings.model_fields:
        found = [variable for variable in variables(name) if os.environ.get(variable)]
        if len(found) > 1 and not _same(name, *(os.environ[variable] for variable in found)):
            yield f"{' and '.join(found)} are one setting and have different values"


def _same(name: str, one: str, other: str) -> bool:
    """Whether two texts mean one value of a setting."""
    field = Settings.model_fields[name]
    kind: Any = Annotated[field.annotation, None, *field.metadata]  # None, for there may be no metadata
    parse = TypeAdapter[Any](kind).validate_python
    try:
        return one == other or bool(parse(one) == parse(other))
    except ValidationError:
        return False


def _describe(fault: Mapping[str, Any], from_file: Mapping[str, Any]) -> str:
    """One of pydantic's faults by the name that the value was given; "" for what follows from another fault."""
    if fault["type"] in ("extra_forbidden", "default_factory_not_called"):
        return ""
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not fault["loc"]:
        return message
    first, *rest = map(str, fault["loc"])
    name = next((name for name in Settings.model_fields if first in (name, *variables(name))), first)
    source = origin(name, os.environ, from_file) or variables(name)[0]
    where = f"{name} in {config_file()}" if source == CONFIG else source
    return f"{where}: {'.'.join(rest) + ': ' if rest else ''}{message}"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read once. Tests that change the environment call `get_settings.cache_clear()`.

    Raises: WrongSettings.
    """
    return load()


def settings_or_exit(program: str = "fleet") -> Settings:
    """The process's settings; when they are wrong, one line on stderr and exit code 2."""
    try:
        return get_settings()
    except WrongSettings as error:
        refuse(program, f"wrong settings: {error}")


def refuse(program: str, reason: str) -> NoReturn:
    """Ends the process before it does anything: one line on stderr, exit code 2."""
    print(f"{program}: {reason}", file=sys.stderr, flush=True)
    sys.exit(2)
