"""From settings to a running vLLM engine, or to one line that says why there is none."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.errors import FleetError
from fleet.settings import Settings
from workers.gpu.first_error import heard

LOGGING = Path(__file__).with_name("logging.json")
# Tokens that the engine hands over at once, but for the first: fewer wake-ups of the loop, and still several a second.
STREAM_INTERVAL = 4
# Small models fill what space they are given between two values, and the answer is cut before its end.
GRAMMAR = {"backend": "xgrammar", "disable_any_whitespace": True}
_REASON_CHARS = 500


class LoadFailed(FleetError):
    """The engine cannot be loaded."""

    def __init__(self, model: str, device: str, reason: str):
        super().__init__(model, device, reason)
        self.model, self.device, self.reason = model, device, reason

    def __str__(self) -> str:
        return f"cannot load the model {self.model} on {self.device}: {self.reason}"


class Stopped(FleetError):
    """The worker is to end before its engine is loaded."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to load. `engine_args` are vLLM's, `adapters` folders by name, `slots` the most sequences at once."""

    model: str
    slots: int
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    hang_s: float = 45.0

    @property
    def name(self) -> str:
        """What the model is called by those who ask for it."""
        return str(self.engine_args.get("served_model_name", self.model))

    @classmethod
    def from_settings(cls, settings: Settings, slots: int) -> "Recipe":
        """Raises: LoadFailed when the settings name no model, or say the same thing twice and differently."""
        model = settings.gpu_model
        if model is None:
            raise LoadFailed("(none)", device(), "FLEET_GPU_MODEL names no model")
        given = dict(settings.gpu_engine_args)
        names = (None, model, given.get("served_model_name"))
        parsers = {one.reasoning_parser for one in settings.profiles.values() if one.model in names}
        parsers = (parsers | {given.get("reasoning_parser")}) - {None}
        if len(parsers) > 1:
            raise LoadFailed(model, device(), f"its profiles and arguments name several reasoning parsers: {parsers}")
        if parsers:
            given["reasoning_parser"] = parsers.pop()
        for name, value in (("model", model), ("max_num_seqs", slots)):
            if given.get(name, value) != value:
                reason = f"FLEET_GPU_ENGINE_ARGS says {name} {given[name]}, the worker {value}"
                raise LoadFailed(model, device(), reason)
        return cls(model, slots, given, settings.gpu_adapters, settings.gpu_hang_s)

    def engine_arguments(self) -> Any:
        """vLLM's AsyncEngineArgs. Raises: whatever vLLM does when it does not know one, or finds it wrong."""
        from vllm.config import StructuredOutputsConfig
        from vllm.engine.arg_utils import AsyncEngineArgs

        ours = {
            "model": self.model,
            "max_num_seqs": self.slots,
            "served_model_name": self.model,
            "enable_prefix_caching": True,
            "stream_interval": STREAM_INTERVAL,
            "enable_lora": bool(self.adapters),
            "max_loras": max(1, len(self.adapters)),  # fewer, and requests for different ones wait for each other
            "disable_log_stats": True,  # `Figures` takes them
        }
        given = dict(self.engine_args)
        grammar = {**GRAMMAR, **given.pop("structured_outputs_config", {})}
        return AsyncEngineArgs(**{**ours, **given}, structured_outputs_config=StructuredOutputsConfig(**grammar))


def load(recipe: Recipe, figures: Any) -> Any:
    """Starts vLLM's AsyncLLM on the event loop of this thread; it takes from seconds to many minutes.

    Raises: LoadFailed.
    """
    _check_folder(recipe)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # traffic that nobody asked for
    if "VLLM_CONFIGURE_LOGGING" not in os.environ:
        os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(LOGGING))
    from vllm.reasoning import ReasoningParserManager
    from vllm.v1.engine.async_llm import AsyncLLM

    with heard() as first_error:
        try:
            arguments = recipe.engine_arguments()
            if arguments.reasoning_parser_plugin:
                ReasoningParserManager.import_reasoning_parser(arguments.reasoning_parser_plugin)
            return AsyncLLM.from_engine_args(arguments, stat_loggers=[lambda *_: figures])
        except Exception as error:
            raise LoadFailed(recipe.model, device(), _short(first_error() or error)) from error


async def load_adapters(llm: Any, recipe: Recipe) -> dict[str, Any]:
    """vLLM's requests for the adapters by name, each loaded once: one that does not fit kills the engine later.

    Raises: LoadFailed.
    """
    from vllm.lora.request import LoRARequest

    requests = {}
    for number, (name, folder) in enumerate(recipe.adapters.items(), 1):
        requests[name] = LoRARequest(name, number, str(Path(folder).expanduser()))
        try:
            await llm.add_lora(requests[name])
        except Exception as error:
            raise LoadFailed(recipe.model, device(), f"adapter {name}: {_short(error)}") from error
    return requests


def device() -> str:
    """The device that this process is pinned to, in words."""
    pinned = os.environ.get("CUDA_VISIBLE_DEVICES")
    if pinned is None:
        return "the default device"
    return f"device {pinned}" if pinned else "no device"


def _check_folder(recipe: Recipe) -> None:
    """What looks like a path is one: vLLM would ask the hub for it, and say something else."""
    for what, name in (("model", recipe.model), *((f"adapter {name}", path) for name, path in recipe.adapters.items())):
        path = Path(name).expanduser()
        if (what != "model" or name.startswith(("/", "./", "../", "~"))) and not path.is_dir():
            raise LoadFailed(recipe.model, device(), f"there is no folder {path} of the {what}")


def _short(reason: object) -> str:
    """In one line; vLLM's have many."""
    return (" ".join(str(reason).split()) or type(reason).__name__)[:_REASON_CHARS]
