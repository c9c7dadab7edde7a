"""How an engine is configured: one value object, made by hand in tests and from the settings in a process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fleet.settings import Settings


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything any engine needs; each engine reads the fields that concern it. The key is left out of the repr.

    name: "openai", "local" or "scripted".
    model: openai: the model's name, None asks the server, which must then serve exactly one.
        local: a name of `models.list_models()` or the path of a GGUF file, None is the default model.
    base_url, api_key: openai only; the URL ends in /v1.
    retries: openai: tries after the first, of what heals by itself, within the time of a request.
    slots: local: requests decoded together; a further caller waits for a free slot within its own timeout.
    context_tokens: local: prompt and answer of one request. Memory grows with slots times context_tokens.
    threads: local: CPU threads, 0 for every core this process may use.
    cache_dir: local: where model files are kept, None for `models.default_cache_dir()`.
    behaviours: scripted: pattern of agent ids (fnmatch) → behaviour; the first match wins, "normal" without one.
    latency_s, slow_s: scripted: seconds every answer takes, and seconds more that a "slow" agent takes.
    debug: local: llama.cpp writes its own log to stderr.
    """

    name: str
    model: str | None = None
    base_url: str = "http://127.0.0.1:8000/v1"
    api_key: str = field(default="", repr=False)
    retries: int = 3
    slots: int = 6
    context_tokens: int = 6144
    threads: int = 0
    cache_dir: Path | None = None
    behaviours: Mapping[str, str] = field(default_factory=dict)
    latency_s: float = 0.0
    slow_s: float = 5.0
    debug: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> "EngineConfig":
        return cls(
            name=settings.engine,
            model=settings.model,
            base_url=settings.engine_url,
            api_key=settings.engine_key.get_secret_value(),
            retries=settings.engine_retries,
            slots=settings.engine_slots,
            context_tokens=settings.engine_context_tokens,
            cache_dir=settings.cache_dir,
            behaviours=settings.scripted_behaviours,
            latency_s=settings.scripted_latency_s,
            debug=settings.log_level == "DEBUG",
        )
