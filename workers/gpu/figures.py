"""What an engine says about itself while it works: vLLM's own figures, taken as it makes them."""

import threading
import time
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from fleet.cluster import EngineState


class Figures(StatLoggerBase):
    """Adds up what vLLM's scheduler says after each step; vLLM calls it from the engine's loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = self._waiting = 0
        self._kv_cache_usage = 0.0
        self._prompt_tokens = self._generation_tokens = 0
        self._queries = self._hits = 0
        self._told = (time.monotonic(), 0)

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        with self._lock:
            if scheduler_stats is not None:
                self._running = scheduler_stats.num_running_reqs
                self._waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
                self._kv_cache_usage = scheduler_stats.kv_cache_usage
                self._queries += scheduler_stats.prefix_cache_stats.queries
                self._hits += scheduler_stats.prefix_cache_stats.hits
            if iteration_stats is not None:
                self._prompt_tokens += iteration_stats.num_prompt_tokens
                self._generation_tokens += iteration_stats.num_generation_tokens

    def log_engine_initialized(self) -> None:
        """vLLM's own loggers say what is to be said."""

    def state(self, *, live: bool, unfinished: int, **more: Any) -> EngineState:
        """The figures now. `unfinished` is how many requests the engine has: without any it makes no step, and what it
        said after the last one is out of date.
        """
        with self._lock:
            now, told = time.monotonic(), self._told
            self._told = (now, self._generation_tokens)
            return EngineState(
                live=live,
                running=min(self._running, unfinished),
                waiting=min(self._waiting, unfinished),
                kv_cache_usage=round(self._kv_cache_usage, 4) if unfinished else 0.0,
                prompt_tokens=self._prompt_tokens,
                generation_tokens=self._generation_tokens,
                tokens_per_s=round((self._generation_tokens - told[1]) / max(now - told[0], 1e-3), 1),
                prefix_cache_queries=self._queries,
                prefix_cache_hits=self._hits,
                **more,
            )
