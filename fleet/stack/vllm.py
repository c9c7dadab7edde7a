"""What a one-machine fleet with vLLM needs when the user names no model: a small one, and settings that suit it."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleet.models import Role
from fleet.settings import file_settings, origin, variables
from fleet.stack.errors import EngineRefused

# As for the local engine's small model: at the usual temperature of 0.7 it rambles, and a long prompt is lost on it.
# 1 GiB of cache is room for eight requests.
SMALL_MODEL: dict[str, Any] = {
    "gpu_slots": 8,
    "gpu_engine_args": {"enforce_eager": True, "max_model_len": 4096, "kv_cache_memory_bytes": 2**30},
    "request_timeout_s": 240,
    "proposal_chars": 1200,
    "shown_chars": 1500,
    "profiles": {role.value: {"temperature": 0.28} for role in Role},
}
# The model is on this machine already; on a processor, vLLM is to share the cores with the rest of the fleet.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "GOMP_SPINCOUNT": "10000",  # see fleet.engines.local
}


def check() -> None:
    """Raises: EngineRefused when this Python has no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineRefused(
            "engine vllm needs vLLM, which this Python has not: on a GPU node run `pip install -e '.[gpu,stack]'`, "
            "without a GPU `make test-vllm` and then .venv-vllm/bin/fleet; or use local, scripted or openai"
        )


def settings() -> dict[str, Any]:
    """Settings by name: the queue, and what suits the small model where the user named no model and no value."""
    queue = {"agent_queue": "gpu"}
    if not small_model():
        return queue
    from_file = file_settings()
    unset = {name: value for name, value in SMALL_MODEL.items() if origin(name, os.environ, from_file) is None}
    return queue | unset


def small_model() -> bool:
    """Whether the user left it to Fleet which model vLLM loads."""
    return origin("gpu_model", os.environ, file_settings()) is None


def variables_of(given: dict[str, Any]) -> dict[str, str]:
    """Settings as a process reads them from its environment."""
    return {variables(name)[0]: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}


def worker_environment() -> dict[str, str]:
    """vLLM's own variables for the small model, less those that the user has set."""
    return {name: value for name, value in ENVIRONMENT.items() if small_model() and name not in os.environ}


def make_model(on_progress: Callable[[str], None]) -> Path:
    """The folder of the small model, fetched and converted if this machine has not done so before.

    Raises: EngineRefused with the reason why there can be none.
    """
    on_progress("model: SmolLM2-135M, fetched and converted for vLLM once on this machine")
    command = [sys.executable, "-m", "workers.gpu.smollm2"]  # a process, because fleet imports no torch
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise EngineRefused(f"there is no model for vLLM: {reason[-1]}")
    return Path(done.stdout.strip())
