"""What the engine tries again, how often and for how long, against a real HTTP server."""

import random
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from fleet.engines import EngineConfig, retries
from fleet.engines.base import Generation, Message
from fleet.engines.openai import OpenAIEngine
from fleet.engines.retries import Fault
from fleet.errors import EndpointFailed, EngineError, EngineTimeout
from tests.unit.engines.openai_server import Answer, Server, completion, error, piece, says, streams

WELL = streams(*completion('{"n": 1}'))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().serving() as server:
        yield server


@pytest.fixture
def engine(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIEngine]:
    """Tries three times, with pauses too short to wait for."""
    monkeypatch.setattr(retries, "FIRST_S", 0.01)
    engine = OpenAIEngine(EngineConfig(name="openai", base_url=server.url, api_key="sk-secret", model="m", retries=2))
    yield engine
    engine.close()


def ask(timeout_s: float = 30.0, **changes: Any) -> Generation:
    return Generation((Message("user", "How many?"),), {"type": "object"}, 50, timeout_s=timeout_s, **changes)


def failure(engine: OpenAIEngine, **changes: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        engine.generate(ask(**changes))
    return caught.value


def one_by_one(*answers: Answer) -> Answer:
    left = iter(answers)
    return lambda handler: next(left)(handler)


def says_later(status: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    """Closes the connection without a word."""
    handler.close_connection = True


def breaks(*events: Any) -> Answer:
    """Closes the connection in the middle of an answer that begins with these events."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        streams(*events)(handler)
        handler.close_connection = True

    return answer


@pytest.mark.parametrize(
    "first",
    [*(says(error("busy"), status) for status in (429, 500, 502, 503, 504, 529)), hangs_up, breaks()],
    ids=["429", "500", "502", "503", "504", "529", "hangs up", "breaks before the first token"],
)
def test_what_passes_is_tried_again(server: Server, engine: OpenAIEngine, first: Answer) -> None:
    server.answer = one_by_one(first, first, WELL)
    assert engine.generate(ask()).text == '{"n": 1}'
    assert len(server.bodies) == 3


def test_a_server_that_is_not_there_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_S", 0.01)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    late = OpenAIEngine(EngineConfig(name="openai", base_url=f"http://127.0.0.1:{port}/v1", model="m", retries=2))
    caught = failure(late)
    late.close()
    assert isinstance(caught, EndpointFailed)
    assert not caught.taken
    assert f"127.0.0.1:{port}: cannot reach the server" in caught.reason
    assert "(3 tries)" in caught.reason


@pytest.mark.parametrize(("status", "taken"), [(429, False), (503, False), (500, True), (502, True)])
def test_what_does_not_pass_names_host_status_and_tries(
    server: Server, engine: OpenAIEngine, status: int, taken: bool
) -> None:
    server.answer = says(error("its own words, and sk-secret"), status)
    caught = failure(engine)
    assert isinstance(caught, EndpointFailed)
    assert (caught.taken, caught.retryable, len(server.bodies)) == (taken, True, 3)
    for part in (f"127.0.0.1:{server.http.server_port}: HTTP {status}", "its own words", "(3 tries)"):
        assert part in caught.reason
    assert "sk-secret" not in str(caught)


@pytest.mark.parametrize("status", [501, 505])
def test_a_failure_of_the_server_that_does_not_pass_is_one_all_the_same(
    server: Server, engine: OpenAIEngine, status: int
) -> None:
    server.answer = says(error("never"), status)
    assert isinstance(failure(engine), EndpointFailed)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "answer",
    [says(b"It works!"), streams(*completion(None)), streams({"no": "completion"}), streams(*completion("{}")[:-2])],
    ids=["no stream", "nothing", "no completion", "cut"],
)
def test_a_bad_answer_is_not_asked_for_again(server: Server, engine: OpenAIEngine, answer: Answer) -> None:
    server.answer = answer
    caught = failure(engine)
    assert type(caught) is EngineError
    assert f"127.0.0.1:{server.http.server_port}" in caught.reason
    assert len(server.bodies) == 1


def test_once_text_was_heard_nothing_is_tried_again(server: Server, engine: OpenAIEngine) -> None:
    heard: list[str] = []
    server.answer = breaks(*completion('{"n": 1}')[:3])
    caught = failure(engine, on_text=lambda text, _: heard.append(text))
    assert isinstance(caught, EndpointFailed)
    assert caught.taken
    assert ("".join(heard), len(server.bodies)) == ('{"n": ', 1)


@pytest.mark.parametrize("asked", ["1", "date"])
def test_a_server_is_left_alone_for_as_long_as_it_asks(server: Server, engine: OpenAIEngine, asked: str) -> None:
    """A date is held against the server's own clock, here one that is an hour wrong."""
    now = time.time() - 3600
    headers = {"Retry_After": asked}
    if asked == "date":
        headers = {"Retry_After": formatdate(now + 1, usegmt=True)}
    at: list[float] = []

    def busy(handler: BaseHTTPRequestHandler) -> None:
        handler.date_time_string = lambda *_: formatdate(now, usegmt=True)  # type: ignore[method-assign]
        at.append(time.monotonic())
        says_later(429, **headers)(handler)

    def well(handler: BaseHTTPRequestHandler) -> None:
        at.append(time.monotonic())
        WELL(handler)

    server.answer = one_by_one(busy, well)
    engine.generate(ask())
    assert at[1] - at[0] >= 1


@pytest.mark.parametrize("asked", ["3600", "date"])
def test_nobody_waits_longer_than_there_is_time(server: Server, engine: OpenAIEngine, asked: str) -> None:
    until = formatdate(time.time() + 3600, usegmt=True)
    server.answer = says_later(429, Retry_After=until if asked == "date" else asked)
    caught = failure(engine, timeout_s=20)
    assert isinstance(caught, EndpointFailed)
    assert caught.retry_after_s == pytest.approx(3600, abs=60)
    assert len(server.bodies) == 1


def test_a_retry_after_that_says_nothing_is_passed_over(server: Server, engine: OpenAIEngine) -> None:
    server.answer = one_by_one(says_later(429, Retry_After="soon"), says_later(503, Retry_After="-5"), WELL)
    assert engine.generate(ask()).text == '{"n": 1}'


def test_all_tries_together_have_the_time_of_the_request(server: Server, engine: OpenAIEngine) -> None:
    server.answer = one_by_one(says(error("busy"), 503), server.drip)
    began = time.monotonic()
    with pytest.raises(EngineTimeout, match=r"no whole answer within 3 s \(2 tries\)"):
        engine.generate(ask(timeout_s=3))
    assert time.monotonic() - began < 20
    assert server.client_left.wait(30), "the server still has its client"


def test_a_line_without_end_is_given_up(server: Server, engine: OpenAIEngine) -> None:
    server.answer = says(b"data: " + b"x" * 10_000_000, content_type="text/event-stream")
    assert "4 MiB" in failure(engine).reason


def test_an_answer_without_end_is_given_up(server: Server, engine: OpenAIEngine) -> None:
    server.answer = streams(*[piece(content="x" * 1_000_000)] * 5)
    assert "more than 4000000 characters" in failure(engine).reason


def test_the_pauses_grow_to_a_cap_with_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, float]] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: drawn.append((low, high)) or high)
    fault = Fault("busy", heals=True, taken=False)
    assert [retries.pause_s(tries, fault) for tries in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert {low for low, _ in drawn} == {0}
