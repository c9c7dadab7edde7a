"""Every setting of Fleet, read from `FLEET_…` variables; the original's names are accepted as aliases."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

T = TypeVar("T")


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


def _alias(name: str, *originals: str) -> AliasChoices:
    return AliasChoices(f"FLEET_{name}", *originals, name.lower())


class Settings(BaseSettings):
    """One flat tree. Times are in seconds, sizes in the unit that the name ends in."""

    model_config = SettingsConfigDict(env_prefix="FLEET_", extra="forbid", frozen=True, validate_default=True)

    valkey_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), validation_alias=_alias("VALKEY_URL", "VALKEY_URL")
    )
    nats_url: SecretStr = Field(SecretStr("nats://127.0.0.1:4222"), validation_alias=_alias("NATS_URL", "NATS_URL"))
    nats_enabled: bool = Field(True, validation_alias=_alias("NATS_ENABLED", "ENABLE_NATS"))
    neo4j_uri: str = Field("bolt://127.0.0.1:7687", validation_alias=_alias("NEO4J_URI", "NEO4J_URI"))
    neo4j_user: str = Field("neo4j", validation_alias=_alias("NEO4J_USER", "NEO4J_USER"))
    neo4j_password: SecretStr = Field(SecretStr(""), validation_alias=_alias("NEO4J_PASSWORD", "NEO4J_PASSWORD"))

    engine: Literal["scripted", "local", "openai"] = Field("openai", validation_alias=_alias("ENGINE", "AGENT_TYPE"))
    engine_url: str = Field("http://127.0.0.1:8000/v1", validation_alias=_alias("ENGINE_URL", "VLLM_URL"))
    engine_key: SecretStr = SecretStr("")
    model: str | None = Field(None, validation_alias=_alias("MODEL", "VLLM_MODEL"))
    engine_slots: int = Field(6, ge=1, le=256, description="Requests the local engine serves at once")
    engine_context_tokens: int = Field(6144, ge=512, description="Prompt and answer of one request, in tokens")
    scripted_behaviours: Annotated[dict[str, str], NoDecode, BeforeValidator(_behaviours)] = Field(default_factory=dict)
    scripted_latency_s: float = Field(0.0, ge=0)
    cache_dir: Path | None = Field(None, description="Model files are kept here; ~/.cache/fleet unless set")
    request_timeout_s: float = Field(
        default_factory=_by_engine(240.0, 60.0), gt=0, description="One answer of one agent; local: 240, others: 60"
    )
    proposal_chars: int = Field(
        default_factory=_by_engine(1200, 6000),
        ge=600,
        le=60_000,
        description="Largest proposal, all texts together; the schema follows from it; local: 1200, others: 6000",
    )
    shown_chars: int = Field(
        default_factory=_by_engine(1500, 40_000),
        ge=600,
        description="All proposals shown to one reviewer together, each cut to its share; local: 1500, others: 40000",
    )

    auto_init_councils: bool = Field(True, validation_alias=_alias("AUTO_INIT_COUNCILS", "AUTO_INIT_COUNCILS"))
    agents_per_council: int = Field(
        3, ge=1, le=10, validation_alias=_alias("AGENTS_PER_COUNCIL", "NUM_AGENTS_PER_COUNCIL")
    )
    deliberation_timeout_s: int = Field(
        300, ge=1, validation_alias=_alias("DELIBERATION_TIMEOUT_S", "DELIBERATION_TIMEOUT")
    )
    deliberation_retention_s: int = Field(
        3600, ge=1, validation_alias=_alias("DELIBERATION_RETENTION_S", "DELIBERATION_CLEANUP")
    )
    queue_ttl_s: int = Field(86_400, ge=1, description="Longest wait in a queue before a deliberation fails")
    agent_queue: str = Field("agents", description="Queue of the agents' work: agents or gpu")
    part_attempts: int = Field(5, ge=1, description="Starts of one agent's part before it counts as failed")

    api_key: SecretStr = SecretStr("")
    api_bind: str = "127.0.0.1:8080"
    dir: Path = Field(Path(".fleet"), description="Where `fleet up` keeps its data")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias=_alias("LOG_LEVEL", "LOG_LEVEL")
    )
    log_format: Literal["console", "json"] = Field("json", validation_alias=_alias("LOG_FORMAT", "LOG_FORMAT"))


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read once. Tests that change the environment call `get_settings.cache_clear()`."""
    return Settings()
