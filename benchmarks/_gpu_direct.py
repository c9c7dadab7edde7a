"""vLLM's engine driven directly, in plain vLLM code: one process, one event loop, whole answers only.

A line of JSON on stdin is one run, a line on stdout what it took: {"requests": [{"messages", "temperature"}, …],
"schema", "max_tokens"} gives {"wall_s", "tokens", "first_ms": […]}. The argument is the engine's arguments, as JSON.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.renderers import ChatParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerBase


class _Silent(StatLoggerBase):
    """With it vLLM takes the times of each request, and says nothing on its own."""

    def __init__(self, *_: Any) -> None: ...

    def record(self, *_: Any, **__: Any) -> None: ...

    def log_engine_initialized(self) -> None: ...


async def _rendered(llm: AsyncLLM, messages: Any) -> Any:
    """The prompt as tokens."""
    params = ChatParams(chat_template_kwargs={"add_generation_prompt": True, "continue_final_message": False})
    return (await llm.renderer.render_chat_async([messages], params))[1][0]


def _sampling(llm: AsyncLLM, asked: dict[str, Any], temperature: float) -> SamplingParams:
    given = {"temperature": temperature, "max_tokens": asked["max_tokens"]}
    return SamplingParams(
        **llm.model_config.get_diff_sampling_param() | given,
        structured_outputs=StructuredOutputsParams(json=asked["schema"]),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


async def _answer(llm: AsyncLLM, prompt: Any, sampling: SamplingParams, id: str) -> tuple[int, float]:
    """Tokens, and milliseconds until the first one."""
    started = time.monotonic()
    [output] = [output async for output in llm.generate(prompt, sampling, id)]
    return len(output.outputs[0].token_ids), (output.metrics.first_token_ts - started) * 1000


async def _run(llm: AsyncLLM, asked: dict[str, Any], number: int) -> dict[str, Any]:
    """The clock runs from when all requests are rendered."""
    prompts = [await _rendered(llm, one["messages"]) for one in asked["requests"]]
    samplings = [_sampling(llm, asked, one["temperature"]) for one in asked["requests"]]
    began = time.monotonic()
    pairs = enumerate(zip(prompts, samplings, strict=True))
    given = await asyncio.gather(*(_answer(llm, *pair, f"{number}-{place}") for place, pair in pairs))
    wall_s = time.monotonic() - began
    return {"wall_s": wall_s, "tokens": sum(one for one, _ in given), "first_ms": [first for _, first in given]}


async def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM's processes write there too
    args = AsyncEngineArgs(**json.loads(sys.argv[1]), disable_log_stats=True)
    llm = AsyncLLM.from_engine_args(args, stat_loggers=[_Silent])
    loop = asyncio.get_running_loop()
    answers.write('{"ready": true}\n')
    answers.flush()
    number = 0
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        number += 1
        answers.write(f"{json.dumps(await _run(llm, json.loads(line), number))}\n")
        answers.flush()
    llm.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
