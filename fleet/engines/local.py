"""The local engine: llama.cpp's own server inside this process, many requests decoded together on the CPU."""

import contextlib
import json
import os
import secrets
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fleet.engines import models
from fleet.engines.base import Completion, Generation
from fleet.engines.config import EngineConfig
from fleet.engines.reasoning import StreamedAnswer
from fleet.errors import EngineCancelled, EngineError, EngineTimeout, ModelUnavailable

# A prompt is read this many tokens at a time, and only in between can it be given up: some seconds on a slow machine.
_BATCH_TOKENS = 512
# What was said within so many tokens counts as repeated. A shorter answer, such as a ballot, cannot loop for long and
# must not be pushed away from the labels that its prompt mentions.
_REPEAT_WINDOW = 256
_SPIN = "GOMP_SPINCOUNT"


class LocalEngine:
    """One model, `slots` requests at once. Loaded on first use or by `load()`. Thread-safe.

    Every call runs in a thread of the engine, one per slot, so that its caller is free again at its timeout even while
    llama.cpp reads a long prompt; the slot follows within one batch of tokens. `Generation.model` is ignored: there is
    one model, and `Completion.model` names it. Load it after a fork, never before.
    """

    name = "local"

    def __init__(self, config: EngineConfig):
        self._config = config
        self._lock = threading.Lock()
        self._server: Any = None
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(config.slots, thread_name_prefix="local-engine")
        self._model = config.model or models.DEFAULT_MODEL
        known = models.listed(self._model)
        self._sampling = known.sampling if known else models.Sampling()

    def load(self, on_progress: models.Progress | None = None) -> None:
        """Fetches the model file if need be and loads it; does nothing when it is loaded.

        Raises:
            ModelUnavailable: no such file, not loadable, or xllamacpp is not installed.
            EngineError: the engine is closed.
        """
        with self._lock:
            if self._closed.is_set():
                raise EngineError(self.name, "the engine is closed", True)
            if self._server is None:
                path = models.locate(self._config.model, self._config.cache_dir, on_progress)
                self._server = _start_server(path, self._config)

    def generate(self, request: Generation) -> Completion:
        """As the contract. The time a first call spends on loading the model does not count against its timeout.

        Raises:
            ModelUnavailable: as `load`.
        """
        if request.adapter:
            raise EngineError(self.name, f"it has no adapters: {request.adapter!r} was asked for")
        self.load()
        call = _Call(request, self._sampling, self._closed)
        try:
            future: Future[None] = self._pool.submit(call.run, self._server)
        except RuntimeError as error:
            raise EngineError(self.name, "the engine is closed", True) from error
        request.cancellation.when_set(lambda: _give_up(call, future))
        try:
            _await(future, call)
            return call.completion(self._model)
        finally:
            call.answer.close()

    def metrics(self) -> dict[str, float]:
        """llama.cpp's own figures, such as requests_processing and n_busy_slots_per_decode; empty while not loaded."""
        with self._lock:
            text = self._server.handle_metrics() if self._server is not None else ""
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {parts[0].removeprefix("llamacpp:"): float(parts[1]) for parts in lines if len(parts) == 2}

    def close(self) -> None:
        """Gives up what runs, with an EngineError for its callers, and frees the model. May be called twice."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._server = None


def _await(future: Future[None], call: "_Call") -> None:
    try:
        future.result(max(0.0, call.deadline - time.monotonic()))
    except TimeoutError:
        _give_up(call, future)
        raise call.timeout() from None
    except CancelledError:
        raise call.abandoned() from None
    except RuntimeError as error:
        raise EngineError("local", f"llama.cpp cannot read the request: {error}"[:500]) from error


def _give_up(call: "_Call", future: Future[None]) -> None:
    call.given_up.set()
    future.cancel()


class _Call:
    """One request on its way through llama.cpp: collects what is streamed until the end, or until it is given up."""

    def __init__(self, request: Generation, sampling: models.Sampling, closed: threading.Event):
        self.request, self.sampling, self.closed = request, sampling, closed
        self.given_up = threading.Event()
        self.deadline = time.monotonic() + request.timeout_s
        self.answer = StreamedAnswer(request.on_text)
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.error: dict[str, Any] | None = None

    def run(self, server: Any) -> None:
        if not self._unwanted():
            server.handle_chat_completions(json.dumps(_body(self.request, self.sampling)), self.on_event)

    def on_event(self, event: str) -> bool:
        """Called by llama.cpp for every piece it streams; True ends the generation and frees its slot."""
        if self._unwanted():
            return True
        with contextlib.suppress(json.JSONDecodeError):  # the stream ends with a word that is not JSON
            self._take(json.loads(event))
        return False

    def _unwanted(self) -> bool:
        return self.given_up.is_set() or self.closed.is_set() or time.monotonic() > self.deadline

    def _take(self, event: dict[str, Any]) -> None:
        self.error = event.get("error") or self.error
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices") or []:
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta = choice.get("delta") or {}
            self.answer.add(delta.get("content") or "", delta.get("reasoning_content") or "")

    def completion(self, model: str) -> Completion:
        self._raise_failure()
        thought, text = self.answer.parts()
        if not text.strip():
            raise EngineError("local", "the model answered nothing", True)
        return Completion(
            text=text,
            finish_reason="length" if self.finish_reason == "length" else "stop",
            model=model,
            prompt_tokens=int(self.usage.get("prompt_tokens", 0)),
            completion_tokens=int(self.usage.get("completion_tokens", 0)),
            latency_ms=self.answer.ms(),
            reasoning=thought,
            first_token_ms=self.answer.first_token_ms,
        )

    def timeout(self) -> EngineTimeout:
        return EngineTimeout("local", f"no whole answer within {self.request.timeout_s:g} s", True)

    def abandoned(self) -> EngineError:
        """Why it ended without the engine's doing."""
        if self.request.cancellation.is_set():
            return EngineCancelled("local", "the request was cancelled")
        return EngineError("local", "the engine was closed", True)

    def _raise_failure(self) -> None:
        if self.error:
            raise _engine_error(self.error)
        if self.finish_reason is None:
            if self.closed.is_set() or self.request.cancellation.is_set():
                raise self.abandoned()
            if time.monotonic() > self.deadline:
                raise self.timeout()
            raise EngineError("local", "llama.cpp ended the answer without a reason", True)


def _engine_error(error: dict[str, Any]) -> EngineError:
    if "n_prompt_tokens" in error:
        reason = f"the prompt has {error['n_prompt_tokens']} tokens, a slot holds {error.get('n_ctx')} with the answer"
        return EngineError("local", reason)
    return EngineError("local", str(error.get("message", error))[:500], int(error.get("code", 500)) >= 500)


def _body(request: Generation, sampling: models.Sampling) -> dict[str, Any]:
    return {
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature * sampling.temperature_scale,
        "repeat_penalty": sampling.repeat_penalty if request.max_tokens > _REPEAT_WINDOW else 1.0,
        "repeat_last_n": _REPEAT_WINDOW,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": request.schema},
        },
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,  # an event per batch of the prompt, hence a chance to give up while it is read
    }


def _start_server(path: Path, config: EngineConfig) -> Any:
    xllamacpp = library()
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_parallel = config.slots
    parameters.n_ctx = config.slots * config.context_tokens
    parameters.n_batch = _BATCH_TOKENS
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = config.threads or _cores()
    parameters.n_gpu_layers = 0
    parameters.fit_params = False  # else llama.cpp may shrink the context to the memory it thinks is free
    parameters.cache_ram_mib = 0  # else up to 8 GiB of old prompts are kept outside the slots
    parameters.cache_idle_slots = False
    parameters.warmup = False
    parameters.verbosity = 3 if config.debug else -1
    _close_to_others(parameters)
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise ModelUnavailable(f"llama.cpp cannot load {path}: {error}") from error


def library() -> Any:
    """xllamacpp, which is llama.cpp, with threads that wait for each other actively, but only for a moment.

    By default they spin for as long as it takes, which on cores shared with other processes costs a multiple of the
    time; sleeping at once costs a third of the speed on a quiet machine. OpenMP reads the variable once, when it is
    loaded; what is set already stands.
    """
    given = {name for name in ("OMP_WAIT_POLICY", _SPIN) if name in os.environ}
    if not given:
        os.environ[_SPIN] = "10000"
    try:
        import xllamacpp
    except ImportError as error:
        raise ModelUnavailable("the local engine needs xllamacpp: install fleet[local]") from error
    finally:
        if not given:
            del os.environ[_SPIN]
    return xllamacpp


def _close_to_others(parameters: Any) -> None:
    """llama.cpp opens an HTTP port on the loopback whatever we do: without the key nobody else can use it."""
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [secrets.token_urlsafe(32)]
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.endpoint_metrics = True  # asked through the process; over HTTP it needs the key as well


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
