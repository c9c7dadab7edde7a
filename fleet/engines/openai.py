"""The engine for any server with OpenAI's chat API: vLLM, llama.cpp, a hosted one. One request per call, no retries."""

import asyncio
import threading
import time
from concurrent.futures import CancelledError, Future
from typing import Any

import openai
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

from fleet.engines.base import Completion, Generation
from fleet.engines.config import EngineConfig
from fleet.engines.reasoning import split_reasoning
from fleet.errors import EngineCancelled, EngineError, EngineTimeout

_REASON_CHARS = 300
# Servers say "abort" for a request that they gave up while they were shutting down; it is worth another try.
_WORTH_ANOTHER_TRY = ("abort", "error")


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
        running = self._submit(request)
        request.cancellation.when_set(running.cancel)
        try:
            return running.result()
        except (TimeoutError, openai.APITimeoutError):
            raise EngineTimeout(self.name, f"no whole answer within {request.timeout_s:g} s", True) from None
        except CancelledError:
            if request.cancellation.is_set():
                raise EngineCancelled(self.name, "the request was cancelled") from None
            raise EngineError(self.name, "the engine was closed", True) from None
        except UnicodeEncodeError as error:
            raise EngineError(self.name, f"the request cannot be encoded: {error.reason}") from error
        except (openai.OpenAIError, ValueError) as error:
            raise _engine_error(error) from error

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
            return asyncio.run_coroutine_threadsafe(self._answer(request, time.monotonic()), self._loop)

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

    async def _answer(self, request: Generation, started: float) -> Completion:
        assert self._client is not None, "made together with the loop"
        async with asyncio.timeout(request.timeout_s):
            model = request.model or self._config.model or await self._model_of_server()
            response = await self._client.chat.completions.create(model=model, **_body(request))
        return _completion(response, model, started)

    async def _model_of_server(self) -> str:
        """The one model that the server has; asked once."""
        assert self._client is not None, "made together with the loop"
        if self._only_model is None:
            names = [model.id async for model in self._client.models.list()]
            if len(names) != 1:
                raise EngineError(
                    self.name, f"name a model: the server has {', '.join(names) or 'none'}"[:_REASON_CHARS]
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
        "timeout": request.timeout_s,
    }


def _completion(response: Any, model: str, started: float) -> Completion:
    if not isinstance(response, ChatCompletion) or not isinstance(response.choices, list):
        raise EngineError("openai", "the server's answer is not a chat completion", True)
    choice = _sole_choice(response)
    message = choice.message
    given = (message.model_extra or {}).get("reasoning_content") or (message.model_extra or {}).get("reasoning")
    thought, text = split_reasoning(message.content or "")
    if not text.strip():
        cut = " before its reasoning ended" if choice.finish_reason == "length" else ""
        raise EngineError("openai", f"the model answered nothing{cut}", True)
    usage = response.usage
    return Completion(
        text=text,
        finish_reason="length" if choice.finish_reason == "length" else "stop",
        model=response.model or model,
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
        latency_ms=round((time.monotonic() - started) * 1000),
        reasoning=str(given or thought),
    )


def _sole_choice(response: ChatCompletion) -> Choice:
    if not response.choices:
        raise EngineError("openai", "the server's answer has no choice", True)
    choice = response.choices[0]
    if getattr(choice, "message", None) is None:
        raise EngineError("openai", "the server's answer has no message", True)
    if choice.message.refusal:
        raise EngineError("openai", f"the model refused: {choice.message.refusal}"[:_REASON_CHARS])
    reason: str = choice.finish_reason
    if reason == "content_filter":
        raise EngineError("openai", "the answer was withheld by a content filter (content_filter)")
    if reason not in ("stop", "length"):
        raise EngineError("openai", f"the answer ended with {reason!r}", reason in _WORTH_ANOTHER_TRY)
    return choice


def _engine_error(error: openai.OpenAIError | ValueError) -> EngineError:
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        return EngineError("openai", f"HTTP {status}: {error.message}"[:_REASON_CHARS], status == 429 or status >= 500)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        return EngineError("openai", f"cannot reach the server: {cause}"[:_REASON_CHARS], True)
    # The library lets through what it could not decode.
    return EngineError("openai", f"the server's answer cannot be read: {error}"[:_REASON_CHARS], True)
