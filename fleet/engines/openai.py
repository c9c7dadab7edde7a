"""The engine for any server with OpenAI's chat API: vLLM, llama.cpp, a hosted one. One request per call, no retries.

The answer is streamed, whether anybody listens or not: one way to read it.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError, Future
from typing import Any

import httpx2
import openai

from fleet.engines.base import Completion, Generation
from fleet.engines.config import EngineConfig
from fleet.engines.openai_answer import REASON_CHARS, Answer
from fleet.errors import EngineCancelled, EngineError, EngineTimeout

_STREAM = "text/event-stream"


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
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._closed = False
        self._only_model: str | None = None

    def generate(self, request: Generation) -> Completion:
        answer = Answer(request)
        running = self._submit(request, answer)
        request.cancellation.when_set(running.cancel)
        try:
            return running.result()
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException):
            raise EngineTimeout(self.name, f"no whole answer within {request.timeout_s:g} s", True) from None
        except CancelledError:
            if request.cancellation.is_set():
                raise EngineCancelled(self.name, "the request was cancelled") from None
            raise EngineError(self.name, "the engine was closed", True) from None
        except UnicodeEncodeError as error:
            raise EngineError(self.name, f"the request cannot be encoded: {error.reason}") from error
        except (openai.OpenAIError, httpx2.HTTPError, ValueError) as error:
            raise _engine_error(error) from error
        finally:
            answer.text.close()

    def close(self) -> None:
        """Gives up what runs, with an EngineError for its callers, and closes the connections. May be called twice."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def _submit(self, request: Generation, answer: Answer) -> Future[Completion]:
        with self._lock:  # held until the loop has the call, so that none is left behind by close()
            if self._closed:
                raise EngineError(self.name, "the engine is closed", True)
            if self._loop is None:
                self._connect()
            assert self._loop is not None
            return asyncio.run_coroutine_threadsafe(self._ask(request, answer), self._loop)

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

    async def _ask(self, request: Generation, answer: Answer) -> Completion:
        assert self._client is not None, "made together with the loop"
        async with asyncio.timeout(request.timeout_s):
            # A server has each LoRA adapter under a name of its own.
            name = request.adapter or request.model or self._config.model or await self._model_of_server()
            ask = self._client.chat.completions.with_streaming_response.create
            async with ask(model=name, **_body(request)) as response:
                if not response.headers.get("content-type", "").startswith(_STREAM):
                    raise EngineError(self.name, "the server answered without streaming, or is none", True)
                async for event in _events(response.iter_bytes()):
                    answer.take(event)
        return answer.completion(name)

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
        "timeout": request.timeout_s,
    }


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """What the Server-Sent Events say. Raises: ValueError for what is no JSON."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, data = line.partition(b":")
            if name == b"data" and (data := data.strip()) and data != b"[DONE]":
                yield json.loads(data)


def _engine_error(error: openai.OpenAIError | httpx2.HTTPError | ValueError) -> EngineError:
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        return EngineError("openai", f"HTTP {status}: {error.message}"[:REASON_CHARS], status == 429 or status >= 500)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        return EngineError("openai", f"cannot reach the server: {cause}"[:REASON_CHARS], True)
    if isinstance(error, httpx2.HTTPError):
        broken = error or type(error).__name__
        return EngineError("openai", f"the connection broke in the answer: {broken}"[:REASON_CHARS], True)
    return EngineError("openai", f"the server's answer cannot be read: {error}"[:REASON_CHARS], True)
