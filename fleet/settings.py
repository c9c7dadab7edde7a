"""Every setting of Fleet: from its `FLEET_…` variable, else from the YAML file that FLEET_CONFIG names, else a default.

The original's variables are aliases, and an empty variable counts as not set. `get_settings` is what a process uses:
it refuses what is misspelt, said twice or contradictory, before anything connects.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    BeforeValidator,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from yaml import MarkedYAMLError, YAMLError

from fleet.errors import FleetError

T = TypeVar("T")

CONFIG = "FLEET_CONFIG"
# Read by the command line alone, which may be on a machine without a fleet.
OTHER_VARIABLES = (CONFIG, "FLEET_URL")
# What Kubernetes and Docker tell every container of a service that is named fleet or fleet-….
_LINK = re.compile(
    r"FLEET_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)=|PORT=(tcp|udp|sctp)://|PORT_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?=)"
)
_ADDRESS = re.compile(r"unix:.+|(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")  # gunicorn's forms
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
Behaviour = Literal["normal", "excellent", "poor", "verbose", "concise", "error-prone", "slow", "silent"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class WrongSettings(FleetError):
    """The process cannot start like this. The message names every setting that is wrong, and no secret."""


def variables(name: str) -> tuple[str, ...]:
    """The environment's variables for a setting, Fleet's own first."""
    original = ORIGINALS.get(name)
    return (f"FLEET_{name.upper()}", *([original] if original else []))


def _behaviours(value: Any) -> Any:
    """Reads "agent-dev-002=silent,*-003=poor" as a mapping of agent id pattern to behaviour."""
    if not isinstance(value, str):
        return value
    parts = [part for part in value.replace(" ", "").split(",") if part]
    if bad := [part for part in parts if "=" not in part]:
        raise ValueError(f"not pattern=behaviour: {', '.join(bad)}")
    return dict(part.split("=", 1) for part in parts)


def _by_engine(local: T, other: T) -> Callable[[dict[str, Any]], T]:
    """A default for the small model on this machine's processor, and one for all other engines."""
    return lambda settings: local if settings.get("engine") == "local" else other


def _check_url(url: str, schemes: tuple[str, ...]) -> None:
    """Raises: ValueError, which does not show the URL, for it may hold a password."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        raise ValueError("not a URL: its host or port cannot be read; is its password percent-encoded?") from None
    if parts.scheme not in schemes:
        raise ValueError(f"not a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not host or "," in host:
        raise ValueError("not a URL with one host, or one with port 0")


def _secret_url(*schemes: str, several: bool = False) -> AfterValidator:
    """Checks a URL that may hold a password; with `several`, each of those that commas separate."""

    def check(value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        for url in text.split(",") if several else [text]:
            _check_url(url, schemes)
        return value

    return AfterValidator(check)


def _open_url(*schemes: str) -> AfterValidator:
    """Checks a URL that is shown, and so must not hold a password."""

    def check(value: str) -> str:
        _check_url(value, schemes)
        if "@" in urlsplit(value).netloc:
            raise ValueError("a user or a password does not belong into this URL: there are settings for them")
        return value

    return AfterValidator(check)


def _bind(value: str) -> str:
    found = _ADDRESS.fullmatch(value)
    if not found or int(found[1] or 0) > 65535:
        raise ValueError("not host:port, such as 127.0.0.1:8080 or [::1]:8080, and not unix:PATH")
    return value


def _word(case: Callable[[str], str], **synonyms: str) -> BeforeValidator:
    """Reads a word in any case, and what other programs call the same."""
    return BeforeValidator(lambda word: synonyms.get(case(word), case(word)) if isinstance(word, str) else word)


_NEO4J = ("bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc")


class Settings(BaseSettings):
    """One flat tree. Times are in seconds, sizes in the unit that the name ends in."""

    model_config = SettingsConfigDict(
        case_sensitive=True,
        env_ignore_empty=True,
        env_prefix="FLEET_",  # else a variable `dir` would be read, by the setting's name
        validate_by_name=True,
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(*variables(name))),
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    valkey_url: Annotated[SecretStr, _secret_url("redis", "rediss")] = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="ValKey, with its database and, if it asks for one, its password: redis:// or rediss://",
    )
    nats_url: Annotated[SecretStr, _secret_url("nats", "tls", several=True)] = Field(
        SecretStr("nats://127.0.0.1:4222"), description="NATS, or several of one cluster with commas between them"
    )
    nats_enabled: bool = Field(True, description="Whether plans come and events go by NATS; if not, no listener is run")
    neo4j_uri: Annotated[str, _open_url(*_NEO4J)] = Field(
        "bolt://127.0.0.1:7687", description="Neo4j: bolt:// or neo4j://, each also with +s or +ssc"
    )
    neo4j_user: str = Field("neo4j", min_length=1, description="User of Neo4j")
    neo4j_password: SecretStr = Field(SecretStr(""), description="Password of Neo4j's user")

    engine: Annotated[Literal["scripted", "local", "openai"], _word(str.lower, vllm="openai")] = Field(
        "openai",
        description="What agents think with: openai, or vllm, is any compatible server, local a small model in "
        "the worker, scripted no model at all",
    )
    engine_url: Annotated[str, _open_url("http", "https")] = Field(
        "http://127.0.0.1:8000/v1", description="Engine openai: the server's URL, which ends in /v1"
    )
    engine_key: SecretStr = Field(SecretStr(""), description="Engine openai: the server's key, if it asks for one")
    model: str | None = Field(
        None,
        description="Engine openai: the model's name, unset for the only one that is served; "
        "local: a name of `fleet models list`, or the path of a GGUF file",
    )
    engine_slots: int = Field(6, ge=1, le=256, description="Requests that the local engine serves at once")
    engine_context_tokens: int = Field(
        6144, ge=512, description="Engine local: prompt and answer of one request, in tokens"
    )
    scripted_behaviours: Annotated[dict[str, Behaviour], NoDecode, BeforeValidator(_behaviours)] = Field(
        default_factory=dict, description="Engine scripted: who behaves how, as agent-dev-002=silent,*-003=poor"
    )
    scripted_latency_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Engine scripted: seconds that each answer takes"
    )
    cache_dir: Path | None = Field(None, description="Folder that model files are kept in; ~/.cache/fleet unless set")
    request_timeout_s: float = Field(
        default_factory=_by_engine(240.0, 60.0),
        gt=0,
        allow_inf_nan=False,
        description="Longest wait for one answer of one agent, in seconds; 240 with engine local, else 60",
    )
    proposal_chars: int = Field(
        default_factory=_by_engine(1200, 6000),
        ge=600,
        le=60_000,
        description="Largest proposal, all its texts together, in characters; 1200 with engine local, else 6000",
    )
    shown_chars: int = Field(
        default_factory=_by_engine(1500, 40_000),
        ge=600,
        description="All proposals shown to one reviewer together, each cut to its share, in characters; "
        "1500 with engine local, else 40000",
    )

    auto_init_councils: bool = Field(True, description="Whether a council is made for every role when a worker starts")
    agents_per_council: int = Field(3, ge=1, le=10, description="Agents of a council that nobody made by hand")
    deliberation_timeout_s: int = Field(
        300, ge=1, description="Longest deliberation from its first start on, in seconds, unless it names its own"
    )
    deliberation_retention_s: int = Field(
        3600, ge=1, description="How long a finished deliberation stays in ValKey, in seconds; Neo4j keeps it for ever"
    )
    queue_ttl_s: int = Field(
        86_400, ge=1, description="Longest wait in a queue before a deliberation fails, in seconds"
    )
    agent_queue: Literal["agents", "gpu"] = Field(
        "agents", description="Queue of the agents' work: agents, or gpu for workers with vLLM in them"
    )
    part_attempts: int = Field(5, ge=1, description="Starts of one agent's part before it counts as failed")
    context_cache_ttl_s: int = Field(3600, ge=1, description="Longest age of a cached context, in seconds")

    api_key: SecretStr = Field(
        SecretStr(""), description="Key that callers of the API send; without one it answers its own machine only"
    )
    api_bind: Annotated[str, AfterValidator(_bind)] = Field(
        "127.0.0.1:8080", description="Address that the API listens on: host:port or unix:PATH"
    )
    dir: Path = Field(Path(".fleet"), description="Folder in which `fleet up` keeps its data, logs and fleet.json")
    log_level: Annotated[LogLevel, _word(str.upper, WARN="WARNING", FATAL="CRITICAL")] = Field(
        "INFO", description="Least important log events that are written; warn and fatal are understood too"
    )
    log_format: Annotated[Literal["console", "json"], _word(str.lower, text="console")] = Field(
        "json", description="Log lines for programs (json, one object a line) or for people (console, or text)"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment beats the file. Raises: WrongSettings when the file cannot be read."""
        return init_settings, env_settings, *_file_sources(settings_cls)

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        """Raises: ValueError naming what contradicts what."""
        faults = [
            f"{variables(name)[0]} is for the engine scripted, and FLEET_ENGINE is {self.engine}"
            for name in ("scripted_behaviours", "scripted_latency_s")
            if self.engine != "scripted" and getattr(self, name)
        ]
        if self.shown_chars < self.proposal_chars:
            room = f"FLEET_SHOWN_CHARS ({self.shown_chars})"
            faults.append(f"{room} has no room for one proposal of FLEET_PROPOSAL_CHARS ({self.proposal_chars})")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def config_file() -> Path | None:
    """The file that FLEET_CONFIG names."""
    named = os.environ.get(CONFIG)
    return Path(named).expanduser() if named else None


def file_settings() -> dict[str, Any]:
    """What the file says, unchecked; empty without one. Raises: WrongSettings when it cannot be read."""
    return {str(key): value for source in _file_sources(Settings) for key, value in source.yaml_data.items()}


def _file_sources(cls: type[BaseSettings]) -> list[YamlConfigSettingsSource]:
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
