"""This machine: its folders, and what its API would tell whom."""

import os
from collections.abc import Iterator
from pathlib import Path

from fleet.api.auth import is_local
from fleet.cli.checkup.part import Part
from fleet.engines.models import default_cache_dir
from fleet.settings import Settings


def machine(settings: Settings) -> Iterator[Part]:
    """The cache folder, and whether an API that others can reach asks them for a key."""
    cache = settings.cache_dir or default_cache_dir()
    fault = _fault(cache)
    needed = settings.engine == "local" or not os.environ.get("FLEET_URL")
    remedy = "make it writable for this user, or name another folder in FLEET_CACHE_DIR"
    yield Part("cache folder", not fault, f"{cache}{fault or ': can be written'}", remedy, needed)
    host, _, _ = settings.api_bind.rpartition(":")
    if "api_bind" in settings.model_fields_set and not settings.api_bind.startswith("unix:") and not is_local(host):
        safe = bool(settings.api_key.get_secret_value())
        state = f"the API listens at {settings.api_bind}, {'with' if safe else 'without'} a key"
        yield Part("api key", safe, state, "set FLEET_API_KEY: without it the API refuses every other machine")


def _fault(folder: Path) -> str:
    """Why nothing can be written there; a folder that is missing is made when it is needed."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        return f": {there} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f": {there} cannot be written"
