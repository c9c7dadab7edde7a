"""The local engine with its real model."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator

from fleet.deliberation import schemas
from fleet.engines import EngineConfig
from fleet.engines.base import Completion, Generation, Message
from fleet.engines.local import LocalEngine
from fleet.errors import EngineCancelled, EngineError, EngineTimeout, ModelUnavailable
from tests.harness import wait_until

NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}}
ENDLESS = {**NUMBERS, "minItems": 1500}  # more than a slot holds: ends only when it is given up
TWENTY = {**NUMBERS, "minItems": 20, "maxItems": 20}
FIRST_LABEL = {"type": "object", "properties": {"ranking": {"enum": ["A>B", "B>A"]}}, "required": ["ranking"],
               "additionalProperties": False}  # fmt: skip


def local(model_file: Path, slots: int, context_tokens: int = 1024) -> LocalEngine:
    return LocalEngine(
        EngineConfig(name="local", model=str(model_file), slots=slots, context_tokens=context_tokens, threads=2)
    )


@pytest.fixture(scope="module")
def engine(model_file: Path) -> Iterator[LocalEngine]:
    engine = local(model_file, slots=6)
    yield engine
    engine.close()


@pytest.fixture
def narrow(model_file: Path) -> Iterator[LocalEngine]:
    """One slot, so that what holds it is seen at once."""
    engine = local(model_file, slots=1, context_tokens=4096)
    engine.load()
    yield engine
    engine.close()


def ask(schema: dict[str, Any], prompt: str = "Name some numbers.", **changes: Any) -> Generation:
    return Generation(
        (Message("user", prompt),), schema, **{"max_tokens": 600, "temperature": 0.0, "timeout_s": 300.0, **changes}
    )


def busy(engine: LocalEngine) -> float:
    return engine.metrics()["requests_processing"]


def ran_endlessly(engine: LocalEngine, pool: ThreadPoolExecutor, timeout_s: float) -> "Future[Completion]":
    """A request that holds a slot until it is given up, seen to hold it."""
    future = pool.submit(engine.generate, ask(ENDLESS, max_tokens=4000, timeout_s=timeout_s))
    wait_until(lambda: busy(engine) >= 1 or future.done(), what="the slot is held")
    return future


def test_six_threads_are_decoded_together_and_every_answer_follows_its_schema(engine: LocalEngine) -> None:
    engine.load()
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(engine.generate, ask(TWENTY, f"Name {n} numbers.")) for n in range(6)]
        wait_until(lambda: busy(engine) == 6, what="six requests are in progress at once")
        answers = [future.result() for future in futures]
    for answer in answers:
        Draft202012Validator(TWENTY).validate(json.loads(answer.text))
        assert answer.finish_reason == "stop"
        assert answer.model.endswith(".gguf")
        assert answer.completion_tokens > 20
    assert engine.metrics()["n_busy_slots_per_decode"] > 2


def test_a_vote_is_one_of_the_orders_allowed(engine: LocalEngine) -> None:
    answer = engine.generate(ask(FIRST_LABEL, "Which is better: A, a tested plan, or B, no plan?", max_tokens=40))
    assert json.loads(answer.text)["ranking"] in ("A>B", "B>A")
    assert answer.prompt_tokens > 10


def test_fleets_own_schemas_are_understood(engine: LocalEngine) -> None:
    for schema in (schemas.proposal_schema(6000), schemas.review_schema(["A", "B", "C"], 6000)):
        answer = engine.generate(ask(schema, "Plan a login page.", max_tokens=60))
        assert answer.text.lstrip().startswith("{")


def test_an_answer_cut_at_the_limit_says_so(engine: LocalEngine) -> None:
    answer = engine.generate(ask(TWENTY, max_tokens=20))
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 20)


def test_an_answer_is_heard_token_by_token_while_it_is_written(engine: LocalEngine) -> None:
    heard: list[tuple[str, int]] = []
    answer = engine.generate(ask(TWENTY, on_text=lambda text, tokens: heard.append((text, tokens))))
    assert "".join(text for text, _ in heard) == answer.text
    assert 20 < sum(tokens for _, tokens in heard) <= answer.completion_tokens
    assert answer.first_token_ms is not None
    assert answer.first_token_ms < answer.latency_ms


def test_what_was_written_is_heard_before_the_answer_is_whole(narrow: LocalEngine) -> None:
    heard: list[str] = []
    request = ask(ENDLESS, max_tokens=4000, timeout_s=600)
    request = replace(request, on_text=lambda text, _: (heard.append(text), request.cancellation.set()))
    with pytest.raises(EngineCancelled):
        narrow.generate(request)
    assert heard


def test_an_adapter_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(EngineError, match="no adapters: 'lora'"):
        engine.generate(ask(TWENTY, adapter="lora"))


def test_a_prompt_that_does_not_fit_is_an_error_with_both_lengths(engine: LocalEngine) -> None:
    with pytest.raises(EngineError, match=r"the prompt has 12\d\d tokens, a slot holds 1024") as caught:
        engine.generate(ask(TWENTY, "word " * 1200))
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("schema", "prompt"),
    [({**NUMBERS, "minItems": 5000}, "Name some numbers."), (TWENTY, "half a character: \ud800")],
    ids=["schema", "prompt"],
)
def test_a_request_that_llama_cpp_cannot_read_is_an_error_and_the_engine_goes_on(
    engine: LocalEngine, schema: dict[str, Any], prompt: str
) -> None:
    with pytest.raises(EngineError):
        engine.generate(ask(schema, prompt))
    assert engine.generate(ask(FIRST_LABEL, max_tokens=40)).finish_reason == "stop"


def test_a_timeout_frees_the_slot_for_the_next_request(narrow: LocalEngine) -> None:
    with pytest.raises(EngineTimeout):
        narrow.generate(ask(ENDLESS, max_tokens=4000, timeout_s=0.5))
    # There is one slot, so this is answered only once the slot is free.
    assert narrow.generate(ask(FIRST_LABEL, max_tokens=40)).text
    assert narrow.metrics()["tokens_predicted_total"] < 3000, "the answer was generated to its end"


def test_a_timeout_while_the_prompt_is_read_frees_the_slot_too(narrow: LocalEngine) -> None:
    with pytest.raises(EngineTimeout):
        narrow.generate(ask(ENDLESS, "word " * 3000, timeout_s=0.3))
    assert narrow.generate(ask(FIRST_LABEL, max_tokens=40)).text
    assert narrow.metrics()["prompt_tokens_total"] < 3000, "the prompt was read to its end"


def test_a_cancelled_request_frees_the_slot_for_the_next_one(narrow: LocalEngine) -> None:
    request, queued = (ask(ENDLESS, max_tokens=4000, timeout_s=600) for _ in range(2))
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(narrow.generate, request)
        wait_until(lambda: busy(narrow) >= 1, what="the slot is held")
        waiting = pool.submit(narrow.generate, queued)
        for cancelled, future in ((queued, waiting), (request, running)):
            cancelled.cancellation.set()
            with pytest.raises(EngineCancelled):
                future.result(60)
    assert narrow.generate(ask(FIRST_LABEL, max_tokens=40)).text


def test_who_finds_no_free_slot_gives_up_at_the_timeout_and_never_takes_one(narrow: LocalEngine) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = ran_endlessly(narrow, pool, timeout_s=600)
        with pytest.raises(EngineTimeout):
            narrow.generate(ask(FIRST_LABEL, timeout_s=0.05))
        assert not running.done()
        assert busy(narrow) == 1
        narrow.close()
        with pytest.raises(EngineError, match="closed"):
            running.result()


def test_closing_gives_up_what_runs_and_refuses_what_comes(narrow: LocalEngine) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = ran_endlessly(narrow, pool, timeout_s=600)
        narrow.close()
        with pytest.raises(EngineError, match="closed") as caught:
            running.result()
        assert caught.value.retryable
    with pytest.raises(EngineError, match="closed"):
        narrow.generate(ask(FIRST_LABEL))
    narrow.close()
    assert narrow.metrics() == {}


def test_nobody_else_can_use_the_model_over_http(engine: LocalEngine) -> None:
    engine.load()
    address = engine._server.listening_address
    assert address.startswith("http://127.0.0.1:")
    question = {"messages": [{"role": "user", "content": "hello"}]}
    assert httpx2.post(f"{address}/v1/chat/completions", json=question).status_code == 401
    assert httpx2.get(f"{address}/metrics").status_code == 401
    assert httpx2.get(f"{address}/slots").status_code in (401, 501)


def test_a_file_that_llama_cpp_cannot_load_makes_the_model_unavailable(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(ModelUnavailable, match=r"broken\.gguf"):
        local(broken, slots=1).generate(ask(FIRST_LABEL))


def test_a_model_that_is_not_there_makes_the_model_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="smollm2-135m"):
        local(tmp_path / "absent.gguf", slots=1).load()
