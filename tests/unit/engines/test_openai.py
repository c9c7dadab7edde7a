"""The engine against a real HTTP server that answers as each test tells it to."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from fleet.engines import EngineConfig
from fleet.engines.base import Generation, Message
from fleet.engines.openai import OpenAIEngine
from fleet.errors import EngineCancelled, EngineError, EngineTimeout
from tests.unit.engines.openai_server import Server, chunk, completion, error, piece, says, streams

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().serving() as server:
        yield server


@pytest.fixture
def engine(server: Server) -> Iterator[OpenAIEngine]:
    engine = OpenAIEngine(EngineConfig(name="openai", base_url=server.url, api_key="sk-secret", model="configured"))
    yield engine
    engine.close()


def ask(**changes: Any) -> Generation:
    messages = (Message("system", "Count."), Message("user", "How many?"))
    asked = {"messages": messages, "schema": SCHEMA, "max_tokens": 50, "temperature": 0.3, "timeout_s": 30.0}
    return Generation(**(asked | changes))


def failure(engine: OpenAIEngine, **changes: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        engine.generate(ask(**changes))
    return caught.value


def test_the_request_asks_for_the_schema_strictly_and_the_answer_is_whole(server: Server, engine: OpenAIEngine) -> None:
    answer = engine.generate(ask())
    (body,) = server.bodies
    assert body["messages"] == [{"role": "system", "content": "Count."}, {"role": "user", "content": "How many?"}]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("configured", 50, 0.3)
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["response_format"]["json_schema"]["strict"] is True
    assert server.keys == ["Bearer sk-secret"]
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert (answer.text, answer.finish_reason, answer.model) == ('{"n": 1}', "stop", "served-model")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.reasoning) == (11, 7, "")


def test_the_request_chooses_the_model_before_the_configuration_does(server: Server, engine: OpenAIEngine) -> None:
    engine.generate(ask(model="asked"))
    assert server.bodies[0]["model"] == "asked"


def test_what_the_server_had_of_the_prompt_is_told(server: Server, engine: OpenAIEngine) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}}
    server.answer = streams(*completion('{"n": 1}'), chunk([], usage=usage))
    assert engine.generate(ask()).cached_tokens == 5
    server.answer = streams(*completion('{"n": 1}'), chunk([], usage="unheard of"))
    assert engine.generate(ask()).cached_tokens is None


def test_an_adapter_is_asked_for_by_its_own_name(server: Server, engine: OpenAIEngine) -> None:
    engine.generate(ask(model="asked", adapter="lora"))
    assert server.bodies[0]["model"] == "lora"


def test_without_a_name_the_one_model_of_the_server_is_used(server: Server) -> None:
    server.models = ["only"]
    engine = OpenAIEngine(EngineConfig(name="openai", base_url=server.url))
    engine.generate(ask())
    engine.close()
    assert server.bodies[0]["model"] == "only"


def test_without_a_name_none_of_several_models_is_chosen(server: Server) -> None:
    server.models = ["big", "small"]
    engine = OpenAIEngine(EngineConfig(name="openai", base_url=server.url))
    assert "big, small" in str(failure(engine))
    engine.close()
    assert server.bodies == []


def test_an_answer_cut_at_the_limit_says_so(server: Server, engine: OpenAIEngine) -> None:
    server.answer = streams(*completion('{"n": ', "length"))
    assert engine.generate(ask()).finish_reason == "length"


@pytest.mark.parametrize(
    "message",
    [
        {"content": '<think>one, two</think>\n{"n": 2}'},
        {"content": '{"n": 2}', "reasoning_content": "one, two"},
        {"content": '{"n": 2}', "reasoning": "one, two"},
    ],
    ids=["in the text", "reasoning_content", "reasoning"],
)
def test_what_the_model_thought_is_kept_apart_from_its_answer(
    server: Server, engine: OpenAIEngine, message: dict[str, Any]
) -> None:
    server.answer = streams(*completion(**message))
    answer = engine.generate(ask())
    assert (answer.text, answer.reasoning) == ('{"n": 2}', "one, two")


@pytest.mark.parametrize("before", [{}, {"reasoning": "one, two"}], ids=["no thoughts", "thoughts"])
def test_the_answer_is_heard_in_pieces_while_it_is_written_and_the_thoughts_are_not(
    server: Server, engine: OpenAIEngine, before: dict[str, Any]
) -> None:
    text = '{"n": "\u2028\u00e9\u00e9"}'
    server.answer = streams(*completion(text, **before))
    heard: list[tuple[str, int]] = []
    answer = engine.generate(ask(on_text=lambda piece, tokens: heard.append((piece, tokens))))
    assert ("".join(piece for piece, _ in heard), answer.text) == (text, text)
    assert [tokens for _, tokens in heard] == [1] * 4


def test_what_was_written_is_heard_before_the_answer_is_whole(server: Server, engine: OpenAIEngine) -> None:
    heard = threading.Event()

    def waits(handler: BaseHTTPRequestHandler) -> None:
        begin, end = completion('{"n": 1}')[:3], completion('{"n": 1}')[3:]
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write("".join(f"data: {json.dumps(event)}\n\n" for event in begin).encode())
        handler.wfile.flush()
        assert heard.wait(30)
        handler.wfile.write("".join(f"data: {json.dumps(event)}\n\n" for event in end).encode())

    server.answer = waits
    answer = engine.generate(ask(on_text=lambda *_: heard.set()))
    assert answer.text == '{"n": 1}'
    assert answer.first_token_ms is not None
    assert answer.first_token_ms <= answer.latency_ms


def test_nothing_is_heard_any_more_once_the_request_was_given_up(server: Server, engine: OpenAIEngine) -> None:
    heard: list[str] = []

    def talks(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        try:
            while not server.client_left.wait(0.001):
                handler.wfile.write(f"data: {json.dumps(piece(content='[1, '))}\n\n".encode())
        except OSError:
            server.client_left.set()

    server.answer = talks
    request = ask(timeout_s=600)
    request = replace(request, on_text=lambda text, _: (heard.append(text), request.cancellation.set()))
    with pytest.raises(EngineCancelled):
        engine.generate(request)
    count = len(heard)
    assert server.client_left.wait(30), "the server still has its client"
    assert len(heard) == count > 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_was_wrong_with_the_request_is_said_at_once_with_host_and_status(
    server: Server, engine: OpenAIEngine, status: int
) -> None:
    server.answer = says(error("its own words, and sk-secret"), status)
    caught = failure(engine)
    assert type(caught) is EngineError
    assert not caught.retryable
    for part in (f"127.0.0.1:{server.http.server_port}", f"HTTP {status}", "its own words", "(1 try)"):
        assert part in caught.reason
    assert "sk-secret" not in str(caught)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (completion(None, refusal="I will not."), "I will not.", False),
        (completion(None, "content_filter"), "content_filter", False),
        (completion('{"n": 1}', "content_filter"), "content_filter", False),
        (completion('{"n": 1}', "tool_calls"), "tool_calls", False),
        (completion('{"n": ', "abort"), "abort", True),
        (completion(None), "nothing", True),
        (completion(" \n"), "nothing", True),
        (completion("<think>and on", "length"), "before its reasoning ended", True),
        (completion('{"n": 1}')[:-2], "before its end", True),
        ([], "no choice", True),
        ([chunk([])], "no choice", True),
        ([chunk([{}])], "no message", True),
        ([chunk([None])], "not a chat completion", True),
        ([{"hello": "world"}], "not a chat completion", True),
        ([[1, 2]], "not a chat completion", True),
        ([*completion('{"n": 1}')[:3], {"error": {"message": "out of memory", "code": 500}}], "out of memory", True),
        ([*completion('{"n": 1}')[:3], {"error": {"message": "too long", "code": 400}}], "too long", False),
        ([{"error": "its own words"}], "its own words", True),
    ],
)
def test_an_answer_that_is_none_is_an_error_with_its_reason(
    server: Server, engine: OpenAIEngine, answer: list[Any], reason: str, retryable: bool
) -> None:
    server.answer = streams(*answer)
    caught = failure(engine)
    assert reason in caught.reason
    assert caught.retryable is retryable


def test_a_server_that_does_not_stream_is_told_from_one_that_answers(server: Server, engine: OpenAIEngine) -> None:
    server.answer = says({"choices": [{"message": {"content": '{"n": 1}'}, "finish_reason": "stop"}]})
    caught = failure(engine)
    assert "without streaming" in caught.reason


@pytest.mark.parametrize("content_type", ["application/json", "text/html", "text/event-stream"])
def test_garbage_from_a_server_is_an_error(server: Server, engine: OpenAIEngine, content_type: str) -> None:
    server.answer = says(b"data: <html>It works!</html>\n", content_type=content_type)
    assert failure(engine).retryable


def test_a_prompt_that_is_no_text_is_refused_before_it_is_sent(server: Server, engine: OpenAIEngine) -> None:
    caught = failure(engine, messages=(Message("user", "half a character: \ud800"),))
    assert "cannot be encoded" in caught.reason
    assert not caught.retryable
    assert server.bodies == []


def test_a_connection_that_breaks_in_the_answer_may_be_tried_again(server: Server, engine: OpenAIEngine) -> None:
    def breaks(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'data: {"id"')
        handler.close_connection = True

    server.answer = breaks
    assert failure(engine).retryable


def test_a_server_that_is_not_there_may_be_tried_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        engine = OpenAIEngine(
            EngineConfig(name="openai", base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1", model="m")
        )
        caught = failure(engine)
        engine.close()
    assert caught.retryable
    assert "cannot reach" in caught.reason


def test_the_timeout_bounds_the_whole_answer_and_the_request_is_given_up(server: Server, engine: OpenAIEngine) -> None:
    server.answer = server.drip
    with pytest.raises(EngineTimeout):
        engine.generate(ask(timeout_s=0.2))
    assert server.client_left.wait(30), "the server still has its client"


def test_a_cancelled_request_is_given_up_and_the_engine_goes_on(server: Server, engine: OpenAIEngine) -> None:
    request = ask(timeout_s=600)

    def hangs(handler: BaseHTTPRequestHandler) -> None:
        threading.Thread(target=request.cancellation.set).start()
        server.drip(handler)

    server.answer = hangs
    with pytest.raises(EngineCancelled):
        engine.generate(request)
    assert server.client_left.wait(30), "the server still has its client"
    server.answer = streams(*completion('{"n": 1}'))
    assert engine.generate(ask()).text == '{"n": 1}'


def test_closing_ends_what_runs_and_refuses_what_comes(server: Server, engine: OpenAIEngine) -> None:
    asked = threading.Event()

    def hangs(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        server.drip(handler)

    server.answer = hangs
    caught: list[EngineError] = []
    thread = threading.Thread(target=lambda: caught.append(failure(engine)))
    thread.start()
    assert asked.wait(30)
    engine.close()
    thread.join(30)
    assert [(type(error), error.retryable) for error in caught] == [(EngineError, True)]
    assert "closed" in failure(engine).reason
