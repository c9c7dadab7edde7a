"""The engine for any server with OpenAI's chat API: vLLM, llama.cpp, a hosted one.

The answer is streamed, whether anybody listens or not: one way to read it. What heals is tried again within the time of
the call (`fleet.engines.retries`), but not once text was heard: who hears it could not tell where it starts anew.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from fleet.engines import retries
from fleet.engines.base import Completion, Generation, OnText
from fleet.engines.config import EngineConfig
from fleet.engines.openai_answer import REASON_CHARS, Answer
from fleet.errors import EndpointFailed, EngineCancelled, EngineError, EngineTimeout
from fleet.masking import Mask

_STREAM = "text/event-stream"
_LONGEST_LINE = 4 * 2**20  # bytes; a whole answer in one event is far shorter


class _Heard:
    """Passes text on until it is closed; thread-safe."""

    def __init__(self, on_text: OnText | None):
        self._lock = threading.Lock()
        self._on_text = on_text

    def __call__(self, text: str, tokens: int) -> None:
        with self._lock:
            if self._on_text:
                self._on_text(text, tokens)

    def close(self) -> None:
        with self._lock:
            self._on_text = None


class OpenAIEngine:
    """Thread-safe: all callers share one connection pool. Connects on first use; use it after a fork, not before.

    The requests run on an event loop of the engine's own, because only there a timeout bounds the whole answer: the
    timeouts of a blocking client start anew with every byte that a slow server sends. A request that is given up has
    its connection closed, which is what makes servers stop generating: vLLM at once, llama.cpp (as measured) only after
    a second in which it finished nothing for anybody else.
    """

    name = "openai"

    def __init__(self, config: EngineConfig, http_client: Any = None):
        """`http_client` is an `httpx2.AsyncClient` to use in place of the engine's own, for tests and proxies."""
        self._config, self._http_client = config, http_client
        self.endpoint = _host(config.base_url)
        self._mask = Mask({config.api_key, urlsplit(config.base_url).password or ""})
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._closed = False
        self._only_model: str | None = None

    def generate(self, request: Generation) -> Completion:
        heard = _Heard(request.on_text)
        running = self._submit(replace(request, on_text=heard if request.on_text else None))
        request.cancellation.when_set(running.cancel)
        try:
            return running.result()
        except CancelledError:
            if request.cancellation.is_set():
                raise EngineCancelled(self.name, "the request was cancelled") from None
            raise EngineError(self.name, "the engine was closed", True) from None
        finally:
            heard.close()

    def close(self) -> None:
        """Gives up what runs, with an EngineError for its callers, and closes the connections. May be called twice."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def _submit(self, request: Generation) -> Future[Completion]:
        with self._lock:  # held until the loop has the call, so that none is left behind by close()
            if self._closed:
                raise EngineError(self.name, "the engine is closed", True)
            if self._loop is None:
                self._connect()
            assert self._loop is not None
            return asyncio.run_coroutine_threadsafe(self._answered(request), self._loop)

    def _connect(self) -> None:
        self._client = openai.AsyncOpenAI(
            base_url=self._config.base_url,
            api_key=self._config.api_key or "none",
            max_retries=0,
            http_client=self._http_client,
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_run, args=(self._loop,), name="openai-engine", daemon=True).start()

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def _answered(self, request: Generation) -> Completion:
        """The answer of the first try that has one. Raises: EngineError."""
        deadline = asyncio.get_running_loop().time() + request.timeout_s
        tries = 1
        while True:
            answer = Answer(request)
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._ask(request, answer)
            except (TimeoutError, EngineError, openai.OpenAIError, httpx2.HTTPError, ValueError) as error:
                fault = retries.fault_of(error, answer.begun)
                pause_s = retries.pause_s(tries, fault) if fault else 0.0
                time_left = asyncio.get_running_loop().time() + pause_s < deadline
                if not (fault and fault.heals and time_left and tries <= self._config.retries):
                    raise self._error(error, fault, request.timeout_s, tries) from error
            await asyncio.sleep(pause_s)
            tries += 1

    async def _ask(self, request: Generation, answer: Answer) -> Completion:
        assert self._client is not None, "made together with the loop"
        # A server has each LoRA adapter under a name of its own.
        name = request.adapter or request.model or self._config.model or await self._model_of_server()
        ask = self._client.chat.completions.with_streaming_response.create
        async with ask(model=name, **_body(request)) as response:
            if not response.headers.get("content-type", "").startswith(_STREAM):
                raise EngineError(self.name, "the server answered without streaming, or is none", True)
            async for event in _events(response.iter_bytes()):
                answer.take(event)
        return answer.completion(name)

    def _error(self, error: Exception, fault: retries.Fault | None, timeout_s: float, tries: int) -> EngineError:
        """What to raise for the last try's failure: it names the server, what it said and how often it was asked."""

        def told(reason: str) -> str:
            words = self._mask.text(reason)[:REASON_CHARS]
            return f"{self.endpoint}: {words} ({tries} {'try' if tries == 1 else 'tries'})"

        if fault:
            return EndpointFailed(self.name, told(fault.reason), fault.taken, fault.retry_after_s)
        if isinstance(error, TimeoutError | openai.APITimeoutError | httpx2.TimeoutException):
            return EngineTimeout(self.name, told(f"no whole answer within {timeout_s:g} s"), True)
        if isinstance(error, EngineError):
            return EngineError(self.name, told(error.reason), error.retryable)
        if isinstance(error, openai.APIStatusError):
            return EngineError(self.name, told(f"HTTP {error.status_code}: {error.message}"))
        if isinstance(error, UnicodeEncodeError):
            return EngineError(self.name, f"the request cannot be encoded: {error.reason}")
        return EngineError(self.name, told(f"the server's answer cannot be read: {error}"), True)

    async def _model_of_server(self) -> str:
        """The one model that the server has; asked once."""
        assert self._client is not None, "made together with the loop"
        if self._only_model is None:
            names = [model.id async for model in self._client.models.list()]
            if len(names) != 1:
                raise EngineError(
                    self.name, f"name a model: the server has {', '.join(names) or 'none'}"[:REASON_CHARS]
                )
            self._only_model = names[0]
        return self._only_model


def _host(url: str) -> str:
    """Host and port, without what may be a secret."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _body(request: Generation) -> dict[str, Any]:
    return {
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": request.schema},
        },
        "stream": True,
        "stream_options": {"include_usage": True},
        "timeout": httpx2.Timeout(request.timeout_s, connect=min(retries.CONNECT_S, request.timeout_s)),
    }


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """What the Server-Sent Events say. Raises: ValueError for what is no JSON, or a line of more than 4 MiB."""
    rest = b""
    async for chunk in chunks:
        if len(rest) > _LONGEST_LINE:
            raise ValueError(f"a line of more than {_LONGEST_LINE // 2**20} MiB")
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, data = line.partition(b":")
            if name == b"data" and (data := data.strip()) and data != b"[DONE]":
                yield json.loads(data)
