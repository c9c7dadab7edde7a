"""Servers that misbehave: whatever they answer, an agent's part ends in its time, as a failure that says why."""

import json
import random
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from celery import Celery

from fleet.dispatch import Dispatcher
from fleet.models import Answer as Given
from fleet.models import Role, Task
from fleet.settings import Settings
from fleet.store import Store
from fleet.tasks import agent, breaker, process
from fleet.tasks.runtime import Runtime
from fleet.valkey import install
from tests.harness import ValkeyServer
from tests.unit.engines.openai_server import Answer, Server, completion, error, piece, says, streams

AGENT, STEP, REQUEST_S = "agent-dev-001", "propose:0", 1.5
STREAM = "text/event-stream"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server().serving() as server:
        yield server


@pytest.fixture
def store(valkey_server: ValkeyServer, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Of a worker whose engine asks the server, and whose breaker stays closed."""
    settings = Settings(
        valkey_url=valkey_server.url, engine="openai", engine_url=server.url, engine_key="sk-secret", model="m",
        engine_retries=0, breaker_failures=1000, request_timeout_s=REQUEST_S,
    )  # fmt: skip
    app = Celery("fleet.misbehaving.tests", set_as_current=False)
    app.conf.update(broker_url=valkey_server.url, result_backend=f"fleet.valkey.backend:Backend+{valkey_server.url}")
    install(app)
    runtime = Runtime(settings)
    runtime.dispatcher = Dispatcher(runtime.store, settings, app)
    monkeypatch.setattr(process, "_runtime", runtime)
    monkeypatch.setattr(breaker, "MOST_TAKEN", 1)
    yield runtime.store
    runtime.close()
    app.close()


def answered(store: Store, timeout_s: float = 60) -> Given:
    """What becomes of one agent's part."""
    task = Task(
        deliberation_id="d1", role=Role.DEV, task_id="t1", task_description="Write it", rounds=0, agents=(AGENT,),
        timeout_ms=int(timeout_s * 1000), created_at_ms=1,
    )  # fmt: skip
    store.submissions.add_deliberation(task, "digest")
    store.deliberations.open_step(task, STEP, [AGENT], "agents", "agents")
    agent.answer("d1", STEP, AGENT, about={"role": "DEV", "task_id": "t1"})
    return store.deliberations.answers("d1")[STEP][AGENT]


def hangs(server: Server) -> Answer:
    return lambda _: server.client_left.wait(30) and None


def late(server: Server) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        server.client_left.wait(REQUEST_S * 2)
        streams(*completion("{}"))(handler)

    return answer


def trickles(server: Server) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", STREAM)
        handler.end_headers()
        for byte in f"data: {json.dumps(piece(content='{'))}\n\n".encode():
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if server.client_left.wait(1):
                return

    return answer


def breaks(begun: list[Any]) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", STREAM)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write("".join(f"data: {json.dumps(one)}\n\n" for one in begun).encode())
        handler.close_connection = True

    return answer


def disconnects(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


BINARY = random.Random(1).randbytes(100_000)
BAD = {
    "fails": (says(error("out of memory"), 500), "engine", "HTTP 500"),
    "refuses": (says(error("no such model"), 404), "engine", "HTTP 404"),
    "refuses the key": (says(error("not sk-secret"), 401), "engine", "HTTP 401"),
    "fails with 10 MB": (says(b"x" * 10_000_000, 500), "engine", "HTTP 500"),
    "closes at once": (disconnects, "engine", "the connection broke before the answer"),
    "closes midway": (breaks(completion('{"summary": "x')[:3]), "engine", "the connection broke in the answer"),
    "ends midway": (streams(*completion('{"summary": "x')[:3]), "engine", "before its end"),
    "answers nothing": (streams(*completion(None)), "engine", "answered nothing"),
    "answers with an empty body": (says(b"", content_type=STREAM), "engine", "no choice"),
    "answers in binary": (says(BINARY, content_type=STREAM), "engine", ""),
    "answers data in binary": (says(b"data: " + BINARY + b"\n\n", content_type=STREAM), "engine", "cannot be read"),
    "answers as a web page": (says(b"<html>It works!</html>", content_type="text/html"), "engine", "none"),
    "answers no JSON": (streams(*completion("I would rather not.")), "not_json", ""),
    "answers other JSON": (streams(*completion('{"answer": 42}')), "schema", ""),
    "answers a list": (streams(*completion("[1, 2, 3]")), "schema", ""),
    "answers with 10 MB": (streams(*[piece(content="x" * 1_000_000)] * 10), "engine", "4000000 characters"),
    "answers with 3 MB": (streams(*completion('{"summary": "' + "x" * 20)[:-2], piece(content="x" * 3_000_000),
                                  piece("stop")), "not_json", ""),
    "answers with a line of 10 MB": (says(b"data: " + b"x" * 10_000_000, content_type=STREAM), "engine", "4 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_server_that_answers_badly_is_a_failure_with_its_reason(server: Server, store: Store, name: str) -> None:
    server.answer, kind, reason = BAD[name]
    given = answered(store)
    assert given.failure is not None, given
    assert (given.failure.type, given.content) == (kind, None)
    assert reason in given.failure.message
    assert len(given.failure.message) < 1000
    assert "sk-secret" not in given.dump()
    if kind == "engine":
        assert server.url.split("/")[2] in given.failure.message


@pytest.mark.parametrize("make", [hangs, late, trickles])
@pytest.mark.parametrize("timeout_s", [60, 1], ids=["longer than a request", "shorter than a request"])
def test_a_server_that_takes_its_time_is_a_failure_within_it(
    server: Server, store: Store, make: Any, timeout_s: float
) -> None:
    server.client_left.clear()
    server.answer = make(server)
    began = time.monotonic()
    given = answered(store, timeout_s)
    server.client_left.set()
    assert given.failure is not None
    assert given.failure.type == "timeout"
    assert server.url.split("/")[2] in given.failure.message
    assert time.monotonic() - began < 30


def test_a_busy_server_is_asked_for_as_long_as_there_is_time_and_then_it_is_a_failure(
    server: Server, store: Store
) -> None:
    server.bodies.clear()
    server.answer = says(error("no room"), 503)
    given = answered(store, 6)
    assert given.failure is not None
    assert (given.failure.type, "HTTP 503" in given.failure.message) == ("engine", True)
    assert len(server.bodies) > 1
    state = json.loads(store.client.hvals("fleet:deliberation:d1:attempts")[0])  # type: ignore[index]
    assert state["deaths"] == 0


def test_a_server_that_fails_once_costs_nothing(server: Server, store: Store) -> None:
    content = {"summary": "s" * 20, "approach": "a" * 20, "steps": ["first"], "artifacts": [], "risks": []}
    left = iter(
        [disconnects, says(error("no room"), 503), streams(*completion(json.dumps(content | {"confidence": 1})))]
    )
    server.answer = lambda handler: next(left)(handler)
    given = answered(store)
    assert given.ok, given.failure
