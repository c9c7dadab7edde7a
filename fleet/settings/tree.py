"""The settings themselves: name, kind, default and meaning of each."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    BeforeValidator,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from fleet.models import Role
from fleet.settings import tls
from fleet.settings.sources import file_sources, variables
from fleet.settings.values import (
    Behaviour,
    LogLevel,
    Profile,
    behaviours,
    bind,
    by_engine,
    document,
    keys,
    open_url,
    secret_url,
    word,
)

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

    valkey_url: Annotated[SecretStr, secret_url("redis", "rediss")] = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="ValKey, with its database and, if it asks for one, its password: redis:// or rediss://",
    )
    valkey_ca_file: tls.CaFile | None = Field(
        None, description="File with the certificates that sign ValKey's; the system's unless set. For rediss://"
    )
    valkey_cert_file: tls.ReadableFile | None = Field(
        None, description="File with the certificate that Fleet shows to ValKey, if it asks for one"
    )
    valkey_key_file: tls.ReadableFile | None = Field(
        None, description="File with the key of that certificate, unless it is in the same file"
    )
    task_signing_key: Annotated[SecretStr, AfterValidator(keys)] = Field(
        SecretStr(""),
        description="Key that signs the messages to workers, who then run no others. With commas between several the "
        "first signs and all are accepted, to replace one",
    )
    nats_url: Annotated[SecretStr, secret_url("nats", "tls", several=True)] = Field(
        SecretStr("nats://127.0.0.1:4222"), description="NATS, or several of one cluster with commas between them"
    )
    nats_enabled: bool = Field(True, description="Whether plans come and events go by NATS; if not, no listener is run")
    nats_ca_file: tls.CaFile | None = Field(
        None, description="File with the certificates that sign NATS's; the system's unless set. For tls://"
    )
    nats_cert_file: tls.ReadableFile | None = Field(
        None, description="File with the certificate that the listener shows to NATS, if it asks for one"
    )
    nats_key_file: tls.ReadableFile | None = Field(
        None, description="File with the key of that certificate, unless it is in the same file"
    )
    nats_nkey_file: tls.NkeyFile | None = Field(
        None, description="File with the seed of the nkey that the listener logs in to NATS with"
    )
    nats_creds_file: tls.CredentialsFile | None = Field(
        None, description="File with the credentials (.creds) that the listener logs in to NATS with"
    )
    neo4j_uri: Annotated[str, open_url(*_NEO4J)] = Field(
        "bolt://127.0.0.1:7687", description="Neo4j: bolt:// or neo4j://, each also with +s or +ssc"
    )
    neo4j_user: str = Field("neo4j", min_length=1, description="User of Neo4j")
    neo4j_password: SecretStr = Field(SecretStr(""), description="Password of Neo4j's user")
    neo4j_ca_file: tls.CaFile | None = Field(
        None, description="File with the certificates that sign Neo4j's; the system's unless set. For +s"
    )

    engine: Annotated[Literal["scripted", "local", "openai"], word(str.lower, vllm="openai")] = Field(
        "openai",
        description="What agents think with: openai, or vllm, is any compatible server, local a small model in "
        "the worker, scripted no model at all",
    )
    engine_url: Annotated[str, open_url("http", "https")] = Field(
        "http://127.0.0.1:8000/v1", description="Engine openai: the server's URL, which ends in /v1"
    )
    engine_key: SecretStr = Field(SecretStr(""), description="Engine openai: the server's key, if it asks for one")
    engine_retries: int = Field(
        3,
        ge=0,
        le=20,
        description="Engine openai: how often a request is tried again after a refused or reset connection, a 429 or "
        "a 5xx, within its time",
    )
    breaker_failures: int = Field(
        10,
        ge=1,
        description="Engine openai: failures of its server in a row, over all workers, after which work waits for it",
    )
    breaker_open_s: float = Field(
        15.0,
        gt=0,
        allow_inf_nan=False,
        description="Engine openai: seconds until one request tries whether a server that failed is back; each failed "
        "one doubles it, up to eight times as long",
    )
    model: str | None = Field(
        None,
        description="Engine openai: the model's name, unset for the only one that is served; "
        "local: a name of `fleet models list`, or the path of a GGUF file",
    )
    engine_slots: int = Field(6, ge=1, le=256, description="Requests that the local engine serves at once")
    engine_context_tokens: int = Field(
        6144, ge=512, description="Engine local: prompt and answer of one request, in tokens"
    )
    scripted_behaviours: Annotated[dict[str, Behaviour], NoDecode, BeforeValidator(behaviours)] = Field(
        default_factory=dict, description="Engine scripted: who behaves how, as agent-dev-002=silent,*-003=poor"
    )
    scripted_latency_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Engine scripted: seconds that each answer takes"
    )
    cache_dir: Path | None = Field(None, description="Folder that model files are kept in; ~/.cache/fleet unless set")
    request_timeout_s: float = Field(
        default_factory=by_engine(240.0, 60.0),
        gt=0,
        allow_inf_nan=False,
        description="Longest wait for one answer of one agent, in seconds; 240 with engine local, else 60",
    )
    proposal_chars: int = Field(
        default_factory=by_engine(1200, 6000),
        ge=600,
        le=60_000,
        description="Largest proposal, all its texts together, in characters; 1200 with engine local, else 6000",
    )
    shown_chars: int = Field(
        default_factory=by_engine(1500, 40_000),
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
    queue_limit: int = Field(
        200_000,
        ge=0,
        description="Deliberations that may be in the fleet and not final yet: then no more are accepted; "
        "0 is no limit",
    )
    rate_limit_per_minute: int = Field(
        0, ge=0, description="Requests for work that each API key may send a minute, to all replicas; 0 is no limit"
    )
    durability: Literal["everysec", "fsync"] = Field(
        "everysec",
        description="When work counts as accepted: once ValKey has it (everysec: a power failure may take the last "
        "second), or once it is on ValKey's disk (fsync; it needs appendfsync always)",
    )
    agent_queue: Literal["agents", "gpu"] = Field(
        "agents", description="Queue of the agents' work: agents, or gpu for workers with vLLM in them"
    )
    part_deaths: int = Field(
        3,
        ge=1,
        description="Deaths of its worker or engine that an agent's part, or of its process that a council's step, "
        "is in before it counts as failed",
    )
    profiles: Annotated[dict[Role, Profile], NoDecode, BeforeValidator(document)] = Field(
        default_factory=dict,
        description="What a role's agents think with, by role: model, adapter, temperature, max_tokens, "
        "reasoning_parser; as JSON in the variable",
    )

    gpu_model: str | None = Field(
        None,
        min_length=1,
        description="GPU workers: the model to load, a name on the hub or a folder. Everywhere else: the model of "
        "the queue gpu; the work for any other goes to a queue of its own",
    )
    gpu_engine_args: Annotated[dict[str, Any], NoDecode, BeforeValidator(document)] = Field(
        default_factory=dict, description="GPU workers: vLLM's engine arguments, as a JSON object"
    )
    gpu_slots: int = Field(
        64, ge=2, le=4096, description="GPU workers: requests in the engine at once, and tasks that the worker takes"
    )
    gpu_adapters: Annotated[dict[str, str], NoDecode, BeforeValidator(document)] = Field(
        default_factory=dict, description="GPU workers: folders of the model's LoRA adapters by name, as a JSON object"
    )
    gpu_hang_s: float = Field(
        45.0,
        ge=5,
        allow_inf_nan=False,
        description="GPU workers: seconds without an answer from the engine's process after which it counts as dead",
    )

    context_cache_ttl_s: int = Field(3600, ge=1, description="Longest age of a cached context, in seconds")

    api_key: SecretStr = Field(
        SecretStr(""), description="Key that callers of the API send; without one it answers its own machine only"
    )
    api_bind: Annotated[str, AfterValidator(bind)] = Field(
        "127.0.0.1:8080", description="Address that the API listens on: host:port or unix:PATH"
    )
    dir: Path = Field(Path(".fleet"), description="Folder in which `fleet up` keeps its data, logs and fleet.json")
    log_level: Annotated[LogLevel, word(str.upper, WARN="WARNING", FATAL="CRITICAL")] = Field(
        "INFO", description="Least important log events that are written; warn and fatal are understood too"
    )
    log_format: Annotated[Literal["console", "json"], word(str.lower, text="console")] = Field(
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
        return init_settings, env_settings, *file_sources(settings_cls)

    @property
    def signing_keys(self) -> list[str]:
        """The keys that sign messages to workers, the one that signs first; none without signatures."""
        return [key.strip() for key in self.task_signing_key.get_secret_value().split(",") if key.strip()]

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
        faults += tls.faults(self)
        if faults:
            raise ValueError("; ".join(faults))
        return self
