"""The openai engine against a real LLM server: llama.cpp's, with its real model."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleet.engines import EngineConfig, local
from fleet.engines.base import Generation, Message
from fleet.engines.openai import OpenAIEngine
from fleet.errors import EngineError, EngineTimeout

KEY = "the-key-of-this-test"
DIGITS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}}
TEN = {**DIGITS, "minItems": 10, "maxItems": 10}
ENDLESS = {**DIGITS, "minItems": 1500}


@pytest.fixture(scope="module")
def server(model_file: Path) -> Any:
    xllamacpp = local.library()
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_file)
    parameters.n_parallel, parameters.n_ctx = 1, 4096
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 2
    parameters.n_gpu_layers, parameters.fit_params, parameters.cache_ram_mib = 0, False, 0
    parameters.cache_idle_slots, parameters.warmup, parameters.verbosity = False, False, -1
    parameters.api_keys, parameters.endpoint_metrics = [KEY], True
    return xllamacpp.Server(parameters)


def connect(server: Any, key: str = KEY) -> OpenAIEngine:
    return OpenAIEngine(EngineConfig(name="openai", base_url=f"{server.listening_address}/v1", api_key=key))


@pytest.fixture
def engine(server: Any) -> Iterator[OpenAIEngine]:
    engine = connect(server)
    yield engine
    engine.close()


def ask(schema: dict[str, Any], prompt: str = "Name ten numbers.", **changes: Any) -> Generation:
    return Generation(
        (Message("user", prompt),), schema, **{"max_tokens": 400, "temperature": 0.0, "timeout_s": 300.0, **changes}
    )


def test_three_threads_get_answers_that_follow_the_schema_from_the_model_the_server_has(engine: OpenAIEngine) -> None:
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(engine.generate, [ask(TEN)] * 3))
    for answer in answers:
        Draft202012Validator(TEN).validate(json.loads(answer.text))
        assert answer.finish_reason == "stop"
        assert answer.model.endswith(".gguf")
        assert min(answer.prompt_tokens, answer.completion_tokens) >= 10


def test_an_answer_cut_at_the_limit_says_so(engine: OpenAIEngine) -> None:
    answer = engine.generate(ask(TEN, max_tokens=15))
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 15)


def test_an_answer_is_heard_token_by_token_while_it_is_written(engine: OpenAIEngine) -> None:
    heard: list[str] = []
    answer = engine.generate(ask(TEN, on_text=lambda text, _: heard.append(text)))
    assert "".join(heard) == answer.text
    assert len(heard) > 5
    assert answer.first_token_ms is not None
    assert answer.first_token_ms < answer.latency_ms


def test_a_timeout_makes_the_server_stop_generating(engine: OpenAIEngine, server: Any) -> None:
    with pytest.raises(EngineTimeout):
        engine.generate(ask(ENDLESS, max_tokens=4000, timeout_s=0.5))
    # The server has one slot, so this is answered only once the slot is free.
    assert engine.generate(ask(TEN)).finish_reason == "stop"
    figures = dict(line.rsplit(" ", 1) for line in server.handle_metrics().splitlines())
    assert float(figures["llamacpp:tokens_predicted_total"]) < 3000, "the answer was generated to its end"


def test_a_prompt_that_does_not_fit_has_the_servers_own_words(engine: OpenAIEngine) -> None:
    with pytest.raises(EngineError, match="exceeds the available context size") as caught:
        engine.generate(ask(TEN, "word " * 5000))
    assert not caught.value.retryable


def test_a_wrong_key_is_refused_for_good(server: Any) -> None:
    stranger = connect(server, "wrong")
    with pytest.raises(EngineError, match="401") as caught:
        stranger.generate(ask(TEN))
    stranger.close()
    assert not caught.value.retryable
