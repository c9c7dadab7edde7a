"""The engine of a GPU worker: one vLLM engine on an event loop of its own, asked from all threads of the worker.

A request is never answered by an engine that died: whoever waits gets `EngineDied`, the work goes back to its queue
and the worker ends. Dead is an engine whose process ended, that aborts what nobody gave up, or that does not answer.
"""

import asyncio
import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, wait
from dataclasses import replace
from typing import Any

import psutil
import structlog

from fleet.cluster import EngineState
from fleet.engines.base import Completion, Generation
from fleet.engines.reasoning import AnswerText
from fleet.errors import EngineCancelled, EngineDied, EngineError, EngineTimeout
from workers.gpu import gauges
from workers.gpu.answer import Pieces, Thoughts
from workers.gpu.figures import Figures
from workers.gpu.loading import Recipe, Stopped, load, load_adapters

log = structlog.get_logger(__name__)

NAME = "vllm"
PROBE_S = 1.0
SILENT_S = 5.0  # without an answer for longer, it may have died
LIVE_S = 20.0  # without an answer for longer, it does not count as live
_REASON_CHARS = 500
_FINISHED = {"stop": "stop", "length": "length", "repetition": "length"}


class VllmEngine:
    """Thread-safe. `on_death` is called once, from any thread, before anybody gets `EngineDied`."""

    name = NAME

    def __init__(self, recipe: Recipe, on_death: Callable[[str], None] = lambda _: None):
        self.model, self._recipe, self._on_death = recipe.name, recipe, on_death
        self._loop = asyncio.new_event_loop()
        self._figures = Figures()
        self._lock = threading.Lock()
        self._running: set[Future[Completion]] = set()
        self._closed = threading.Event()
        self._death: str | None = None
        self._answered_at = time.monotonic()
        self._llm: Any = None
        self._adapters: dict[str, Any] = {}
        self._processes: list[psutil.Process] = []
        self._requests = 0

    def load(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Starts the engine and returns when it can be asked.

        Raises: LoadFailed, or Stopped as soon as `stopping` says so.
        """
        threading.Thread(target=self._run_loop, name="vllm-loop", daemon=True).start()
        loading = asyncio.run_coroutine_threadsafe(self._load(), self._loop)
        while not wait([loading], PROBE_S).done:
            if stopping():
                kill_processes()
                raise Stopped
        loading.result()
        self._processes = list(_processes())
        self._answered_at = time.monotonic()
        threading.Thread(target=self._probe, name="vllm-probe", daemon=True).start()

    def generate(self, request: Generation) -> Completion:
        """As the contract; `timeout_s` counts from here."""
        started, heard = time.monotonic(), AnswerText(request.on_text)
        running = self._submit(request, heard, started)
        request.cancellation.when_set(running.cancel)
        try:
            return running.result()
        except CancelledError:
            if request.cancellation.is_set() and not self._death:
                raise EngineCancelled(NAME, "the request was cancelled") from None
            raise self._ended(started) from None
        except TimeoutError:
            if self._has_died():
                raise self._ended(started) from None
            raise EngineTimeout(NAME, f"no whole answer within {request.timeout_s:g} s", True) from None
        finally:
            heard.close()  # the loop may take a moment to hear that nobody waits
            with self._lock:
                self._running.discard(running)

    def state(self) -> EngineState:
        """What is true of it now; its totals count from its start."""
        return self._figures.state(
            live=self.live,
            unfinished=self._llm.get_num_unfinished_requests(),
            adapters=tuple(self._recipe.adapters),
            devices=gauges.measured(),
        )

    @property
    def live(self) -> bool:
        return self._death is None and time.monotonic() - self._answered_at < LIVE_S

    def close(self) -> None:
        """Gives up what runs, for it to be done elsewhere, and ends vLLM's processes. May be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._give_up_all()
        if self._death is None and self._llm is not None:
            self._llm.shutdown(timeout=1.0)
        kill_processes(self._processes)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _ended(self, started: float) -> EngineDied:
        """What a request gets that began at `started`. What came to an engine that hung already did not kill it."""
        if not self._death:
            return EngineDied(NAME, "the engine was closed", running=False)
        return EngineDied(NAME, self._death, running=started < self._answered_at + SILENT_S)

    def _has_died(self) -> bool:
        """Whether an engine that is silent is dead, as soon as that is known: it may have been so for a while."""
        while time.monotonic() - self._answered_at > SILENT_S and not self._death:
            if self._closed.wait(PROBE_S):
                break
        return self._death is not None or self._closed.is_set()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _load(self) -> None:
        """Blocks the loop, on which nothing else runs yet; vLLM takes the loop that it is made on for its own."""
        self._llm = load(self._recipe, self._figures)
        self._thoughts = Thoughts(self._llm)
        self._defaults = self._llm.model_config.get_diff_sampling_param()  # read once: it may ask the hub
        self._adapters = await load_adapters(self._llm, self._recipe)

    def _submit(self, request: Generation, heard: AnswerText, started: float) -> Future[Completion]:
        with self._lock:
            if self._death or self._closed.is_set():
                raise EngineDied(NAME, self._death or "the engine is closed", running=False)
            self._requests += 1
            answer = self._answer(request, heard, f"{self._requests}", started)
            running: Future[Completion] = asyncio.run_coroutine_threadsafe(answer, self._loop)
            self._running.add(running)
            return running

    async def _answer(self, request: Generation, heard: AnswerText, id: str, started: float) -> Completion:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            async with asyncio.timeout(request.timeout_s - (time.monotonic() - started)):
                return await self._generated(request, heard, id, started)
        except EngineDeadError:
            self._die("its process ended or failed")
            raise asyncio.CancelledError from None
        except EngineGenerateError as error:
            if self._llm.errored:  # what failed is not this request alone
                self._die(f"it failed: {error.__cause__ or error}")
                raise asyncio.CancelledError from None
            raise EngineError(NAME, f"it failed: {error.__cause__ or error}", True) from error
        except VLLMClientError as error:
            raise EngineError(NAME, f"it refused the request: {error}"[:_REASON_CHARS]) from error

    async def _generated(self, request: Generation, heard: AnswerText, id: str, started: float) -> Completion:
        """Raises: asyncio.CancelledError when the engine died; leaving it aborts the request in the engine."""
        adapter, prompt = self._adapter(request), await self._prompt(request)
        asked = len(prompt["prompt_token_ids"])
        pieces = Pieces(self._thoughts, prompt["prompt_token_ids"], heard)
        output = None
        async for output in self._llm.generate(prompt, self._sampling(request, asked), id, lora_request=adapter):
            pieces.add(output.outputs[0])
        assert output is not None, "vLLM says at least why it ended"
        reason = output.outputs[0].finish_reason
        if reason == "abort":
            self._die("it aborted a request that nobody gave up")
            raise asyncio.CancelledError
        if reason not in _FINISHED:
            raise EngineError(NAME, f"the answer ended with {reason!r}", True)
        thought, content = pieces.parts()
        if not content.strip() and _FINISHED[reason] == "stop":
            raise EngineError(NAME, "the model answered nothing", True)
        return Completion(
            text=content,
            finish_reason="length" if _FINISHED[reason] == "length" else "stop",
            model=adapter.lora_name if adapter else self.model,
            prompt_tokens=asked,
            completion_tokens=pieces.tokens,
            latency_ms=_ms(time.monotonic() - started),
            reasoning=thought,
            cached_tokens=output.num_cached_tokens,
            **_timings(output.metrics, started),
        )

    async def _prompt(self, request: Generation) -> Any:
        """The model's chat template around the messages, as tokens. Raises: EngineError when they are too many."""
        from vllm.renderers import ChatParams

        renderer = self._llm.renderer
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        params = ChatParams(chat_template_kwargs={"add_generation_prompt": True, "continue_final_message": False})
        # Not vLLM's own check, which names one length only.
        unlimited = replace(renderer.default_chat_tok_params, max_total_tokens=None)
        _, [prompt] = await renderer.render_chat_async([messages], params, unlimited)
        tokens, most = len(prompt["prompt_token_ids"]), self._llm.model_config.max_model_len
        if tokens >= most:
            raise EngineError(NAME, f"the prompt has {tokens} tokens, the model takes {most} with the answer")
        return prompt

    def _sampling(self, request: Generation, prompt_tokens: int) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        room = self._llm.model_config.max_model_len - prompt_tokens
        return SamplingParams(
            **self._defaults
            | {
                "temperature": request.temperature,
                "max_tokens": min(request.max_tokens, room),
                "structured_outputs": StructuredOutputsParams(json=request.schema),
                "skip_special_tokens": self._thoughts.skip_special_tokens,
                "output_kind": RequestOutputKind.DELTA if request.on_text else RequestOutputKind.FINAL_ONLY,
            }
        )

    def _adapter(self, request: Generation) -> Any:
        """Raises: EngineError when the request is for a model or an adapter that is not here."""
        if request.model not in (None, self.model):
            raise EngineError(NAME, f"it has the model {self.model}, not {request.model}")
        if request.adapter is None:
            return None
        if request.adapter not in self._adapters:
            names = ", ".join(self._adapters) or "none"
            raise EngineError(NAME, f"there is no adapter {request.adapter} here, only: {names}")
        return self._adapters[request.adapter]

    def _probe(self) -> None:
        """Asks the engine's process for a sign of life, again and again: one that is stuck never raises anything."""
        while not self._closed.wait(PROBE_S) and self._death is None:
            asked = asyncio.run_coroutine_threadsafe(self._llm.engine_core.get_supported_tasks_async(), self._loop)
            try:
                asked.result(self._answered_at + self._recipe.hang_s - time.monotonic())
                self._answered_at = time.monotonic()
                if self._llm.errored:
                    self._die("it failed")
            except TimeoutError:
                self._die(f"it did not answer for {self._recipe.hang_s:g} s")
            except Exception as error:  # noqa: BLE001 - vLLM raises just that
                self._die(f"its process ended or failed: {error}")

    def _die(self, reason: str) -> None:
        with self._lock:
            if self._death or self._closed.is_set():
                return
            self._death = reason
        log.critical("engine.died", model=self.model, reason=reason)
        self._on_death(reason)
        kill_processes(self._processes)
        self._give_up_all()

    def _give_up_all(self) -> None:
        with self._lock:
            running = list(self._running)
        for one in running:
            one.cancel()


def kill_processes(known: Iterable[psutil.Process] = ()) -> None:
    """kill -9 of vLLM's processes, and of those `known` whose parent has ended before them.

    One that is stuck hears nothing else, and holds the device.
    """
    for process in {*known, *_processes()}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for child in multiprocessing.active_children():
        child.join(5)


def _processes() -> Iterator[psutil.Process]:
    """What vLLM started; Python's own process that clears up after it is none of them."""
    for child in multiprocessing.active_children():
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(child.pid)
            yield from (*leader.children(recursive=True), leader)


def _timings(metrics: Any, started: float) -> dict[str, int | None]:
    """What vLLM measured, in its engine's process; that and this one have one monotonic clock."""
    if metrics is None or not metrics.scheduled_ts:
        return {"queue_ms": None, "first_token_ms": None}
    first = metrics.first_token_ts
    return {
        "queue_ms": _ms(max(0.0, metrics.scheduled_ts - metrics.queued_ts)),
        "first_token_ms": _ms(max(0.0, first - started)) if first else None,
    }


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
