"""Engines: what turns a prompt into text. `base` is the contract; the other modules are its implementations."""

from fleet.engines.base import Engine
from fleet.engines.config import EngineConfig
from fleet.errors import InvalidRequest

ENGINES = ("openai", "local", "scripted")

__all__ = ["ENGINES", "Engine", "EngineConfig", "create_engine"]


def create_engine(config: EngineConfig) -> Engine:
    """The engine that `config.name` asks for; never another one in its place.

    Only the chosen engine's libraries are imported. Nothing is loaded or connected before the first request.

    Raises:
        InvalidRequest: no engine has that name, or its configuration is wrong.
    """
    if config.name == "openai":
        from fleet.engines.openai import OpenAIEngine

        return OpenAIEngine(config)
    if config.name == "local":
        from fleet.engines.local import LocalEngine

        return LocalEngine(config)
    if config.name == "scripted":
        from fleet.engines.scripted import ScriptedEngine

        return ScriptedEngine(config)
    raise InvalidRequest([(("engine",), f"unknown engine {config.name!r}; known: {', '.join(ENGINES)}")])
