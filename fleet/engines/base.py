"""The contract of an engine: a chat prompt and a JSON schema in, a completion out, many at once from many threads."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from fleet.cluster import EngineState
from fleet.engines.cancellation import Cancellation
from fleet.models import Message

__all__ = ["Cancellation", "Completion", "Engine", "Generation", "HostedEngine", "Message", "OnText", "RemoteEngine"]

# Called with each piece of text as it is written and the tokens it was made of; must not block and must not raise.
OnText = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Generation:
    """One request to an engine.

    `schema` is the JSON schema the answer must follow (guided decoding). `tags` say who asks and for what
    (deliberation_id, agent_id, role, phase, round); engines may log them and the scripted engine acts on them.
    `adapter` names a LoRA adapter of the model. `on_text` hears the answer, thoughts left out, while it is written;
    it may be called from any thread, by one at a time, and not after `generate` has returned.
    """

    messages: tuple[Message, ...]
    schema: dict[str, Any]
    max_tokens: int
    temperature: float = 0.7
    timeout_s: float = 60.0
    model: str | None = None
    adapter: str | None = None
    on_text: OnText | None = field(default=None, compare=False, repr=False)
    tags: dict[str, Any] = field(default_factory=dict)
    cancellation: Cancellation = field(default_factory=Cancellation, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine answered. `finish_reason` is "stop", or "length" when the answer was cut at `max_tokens`.

    What an engine cannot measure is None: `queue_ms` until it began, `first_token_ms` until its first token, and
    `cached_tokens` of the prompt that it had computed before.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    model: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: int
    reasoning: str = ""
    queue_ms: int | None = None
    first_token_ms: int | None = None
    cached_tokens: int | None = None


class Engine(Protocol):
    """Thread-safe. `generate` blocks its caller until the answer is whole.

    Raises:
        EngineError: the engine failed; `retryable` says whether the same request may succeed later.
        EngineTimeout: no whole answer within `timeout_s` seconds; the work was given up in the engine too.
        EngineCancelled: `cancellation` was set, before or meanwhile; the work was given up in the engine too.
        EndpointFailed: the engine's server cannot be reached, is busy or broken.
        EngineDied: the engine is gone for good, and its process has to end.
    """

    name: str

    def generate(self, request: Generation) -> Completion: ...

    def close(self) -> None: ...


class HostedEngine(Engine, Protocol):
    """An engine that is part of its worker: it was loaded before the worker consumed, and the worker ends with it."""

    model: str

    def state(self) -> EngineState: ...


@runtime_checkable
class RemoteEngine(Engine, Protocol):
    """An engine behind a server that others ask too; `endpoint` is its host and port."""

    endpoint: str
