"""The API as gunicorn serves it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from fleet.cluster import WorkerState
from fleet.settings import Settings
from fleet.store import Store
from fleet.store.workers import Workers
from tests.harness import Neo4jServer, ValkeyServer, wait_until

from .conftest import KEY, ROOT, Gunicorn, finish_in

BODY: dict[str, Any] = {"task_description": "Write a parser", "role": "DEV"}
PLAN: dict[str, Any] = {"plan_id": "plan-1", "story_id": "story-1", "roles": ["DEV", "QA"]}
Serve = Callable[..., Gunicorn]


@pytest.fixture
def store(valkey_server: ValkeyServer) -> Iterator[Store]:
    with closing(Store.from_settings(Settings(valkey_url=valkey_server.url))) as store:
        yield store


def raw(server: Gunicorn, request: bytes) -> tuple[bytes, bytes]:
    """What the server says to these bytes: head and body."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    return head, body


def lines(stream: http.client.HTTPResponse) -> list[str]:
    """The names of the next event's fields."""
    block = []
    while line := stream.readline().strip().decode():
        block.append(line)
    return block


def next_event(stream: http.client.HTTPResponse) -> dict[str, str]:
    while True:
        fields = dict(line.split(": ", 1) for line in lines(stream))
        if "event" in fields:
            return fields


def test_a_plan_goes_in_and_comes_out(served: Gunicorn, store: Store) -> None:
    first = served.call("POST", "/v1/plans", PLAN)
    again = served.call("POST", "/v1/plans", PLAN)
    assert (first.status, again.status) == (202, 200)
    assert again.body == first.body
    assert served.call("GET", first.headers["Location"]).json["deliberations"] == first.json["deliberations"]
    assert store.statistics.ready(["agents"])["agents"] == 6


def test_the_same_plan_sent_many_times_at_once_is_one_plan(served: Gunicorn, store: Store) -> None:
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(served.call("POST", "/v1/plans", PLAN))) for _ in "12345"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status for reply in replies) == [200, 200, 200, 200, 202]
    assert len({reply.body for reply in replies}) == 1
    assert store.statistics.ready(["agents"])["agents"] == 6


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/plans HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"POST /v1/plans HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n",
        b"POST /v1/plans HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\nzz\r\n",
        b"POST /v1/plans HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n{",
    ],
)
def test_a_request_that_is_no_http_gets_a_problem_and_no_page(served: Gunicorn, request_: bytes) -> None:
    head, body = raw(served, request_)
    assert head.startswith(b"HTTP/1.1 4"), head
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert str(problem["status"]).encode() in head
    assert {"type", "title", "detail"} <= set(problem)


def test_a_body_that_was_cut_off_is_refused_though_it_reads_well(served: Gunicorn, store: Store) -> None:
    body = json.dumps(PLAN).encode()
    head = f"POST /v1/plans HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n"
    said, _ = raw(served, f"{head}Content-Length: {len(body) + 1}\r\n\r\n".encode() + body)
    assert said.startswith(b"HTTP/1.1 422")
    assert store.client.dbsize() == 0


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 8 * 1024 * 1024])
def test_a_large_body_is_refused_with_a_problem_and_the_server_goes_on(served: Gunicorn, size: int) -> None:
    assert served.call("POST", "/v1/plans", b" " * size).status == 413
    assert served.call("POST", "/v1/plans", iter([b" " * 65_536] * (size // 65_536 + 1))).status == 413
    assert served.call("GET", "/livez").status == 200


def test_a_stream_tells_what_happens_as_it_happens_and_ends_with_the_deliberation(
    served: Gunicorn, store: Store
) -> None:
    id = served.call("POST", "/v1/deliberations", BODY).json["deliberation_id"]
    with closing(served.request("GET", f"/v1/deliberations/{id}/events")) as stream:
        assert [next_event(stream)["event"] for _ in range(3)] == ["orchestration.task.dispatched"] * 3
        finish_in(store, id)
        assert next_event(stream)["event"] == "orchestration.deliberation.stepped"
        assert next_event(stream)["event"] == "orchestration.deliberation.failed"
        assert stream.read() == b""


def test_a_stream_of_what_is_to_come_leaves_out_what_was(served: Gunicorn) -> None:
    served.call("POST", "/v1/plans", PLAN)
    with closing(served.request("GET", "/v1/events?after=$")) as stream:
        assert lines(stream)[0] == "retry: 1000"
        id = served.call("POST", "/v1/deliberations", BODY).json["deliberation_id"]
        assert json.loads(next_event(stream)["data"])["deliberation_id"] == id


def test_streams_and_long_waits_leave_threads_for_others_and_give_their_places_back(served: Gunicorn) -> None:
    served.call("POST", "/v1/deliberations", BODY, **{"Idempotency-Key": "one"})
    id = served.call("POST", "/v1/deliberations", BODY, **{"Idempotency-Key": "one"}).json["deliberation_id"]
    with ExitStack() as stack:
        for _ in range(12):
            stream = stack.enter_context(closing(served.request("GET", "/v1/events")))
            assert stream.status == 200
        for path in ("/v1/events", f"/v1/deliberations/{id}?wait=60"):
            refused = served.call("GET", path)
            assert refused.status == 503
            assert refused.json["type"] == "/docs#problem-busy"
            assert int(refused.headers["Retry-After"]) > 0
        assert served.call("GET", f"/v1/deliberations/{id}").status == 200
    wait_until(lambda: served.call("GET", f"/v1/deliberations/{id}?wait=0.01").status == 200, what="a place is free")


def test_what_needs_valkey_is_answered_503_while_it_is_away_and_works_when_it_is_back(
    serve: Serve, new_valkey: Callable[..., ValkeyServer]
) -> None:
    valkey = new_valkey()
    server = serve(valkey)
    assert server.call("POST", "/v1/plans", PLAN).status == 202
    with closing(server.request("GET", "/v1/events?after=$")) as stream:
        valkey.kill()
        for method, path, body in [
            ("POST", "/v1/plans", {**PLAN, "plan_id": "plan-2"}),
            ("POST", "/v1/deliberations", BODY),
            ("GET", "/v1/plans", None),
            ("GET", "/v1/deliberations/some?wait=60", None),
            ("GET", "/v1/events", None),
            ("GET", "/v1/councils", None),
        ]:
            answer = server.call(method, path, body)
            assert (answer.status, answer.headers["Content-Type"]) == (503, "application/problem+json")
            assert int(answer.headers["Retry-After"]) > 0
        assert server.call("GET", "/readyz").json["dependencies"]["valkey"]["state"] == "down"
        assert server.call("GET", "/livez").status == 200
        valkey.start()
        accepted = server.call("POST", "/v1/plans", {**PLAN, "plan_id": "plan-2"})
        assert accepted.status == 202
        assert json.loads(next_event(stream)["data"])["plan_id"] == "plan-2"
    assert server.call("GET", "/v1/plans/plan-1").status == 200


def test_a_valkey_that_takes_no_writes_is_answered_503_and_nothing_is_accepted(
    serve: Serve, new_valkey: Callable[..., ValkeyServer]
) -> None:
    valkey = new_valkey()
    server = serve(valkey)
    with valkey.client() as client:
        client.config_set("maxmemory", "1")
        assert server.call("POST", "/v1/plans", PLAN).status == 503
        client.config_set("maxmemory", "0")
        assert client.zcard("fleet:plans") == 0
    assert server.call("POST", "/v1/plans", PLAN).status == 202


def test_sigterm_ends_streams_and_waits_and_the_process(serve: Serve, valkey_server: ValkeyServer) -> None:
    server = serve(valkey_server)
    id = server.call("POST", "/v1/deliberations", BODY).json["deliberation_id"]
    with (
        closing(server.request("GET", "/v1/events?after=$")) as stream,
        closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as waiting,
    ):
        lines(stream)
        path = f"/v1/deliberations/{id}?wait=60"
        waiting.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        wait_until(lambda: server.call("GET", "/livez").status == 200)
        assert server.popen is not None
        server.popen.send_signal(signal.SIGTERM)
        assert stream.read() == b""
        assert waiting.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        assert server.popen.wait(30) == 0
    assert "Traceback" not in server.output()


@pytest.mark.parametrize(
    ("options", "env"),
    [
        ([], {"FLEET_API_BIND": "0.0.0.0:0"}),
        (["-b", "0.0.0.0:0"], {"FLEET_API_BIND": "127.0.0.1:0"}),
        (["-b", "127.0.0.1:0", "-b", "[::]:0"], {}),
        ([], {"FLEET_API_BIND": "127.0.0.1:0", "FLEET_AGENTS_PER_COUNCIL": "many"}),
    ],
)
def test_a_start_that_must_not_be_ends_with_one_clear_line(options: list[str], env: dict[str, str]) -> None:
    said = refusal(options, env)
    assert "Listening" not in said


def test_a_socket_that_was_handed_over_and_others_reach_ends_the_start_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        said = refusal(["-b", f"fd://{listening.fileno()}"], {}, pass_fds=[listening.fileno()])
        assert f"0.0.0.0:{listening.getsockname()[1]} without a key" in said


def refusal(options: list[str], env: dict[str, str], pass_fds: Sequence[int] = ()) -> str:
    """What a server says that refuses to start."""
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", *options, "fleet.api:create_app()"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
    ended = subprocess.run(
        command, cwd=ROOT, env={**clean, **env}, capture_output=True, text=True, timeout=30, pass_fds=pass_fds
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("fleet api: ") == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_with_neo4j_the_api_is_ready_and_knows_what_it_never_had(
    serve: Serve, valkey_server: ValkeyServer, neo4j_server: Neo4jServer, tmp_path: Path
) -> None:
    user, password = neo4j_server.auth
    server = serve(
        valkey_server,
        FLEET_NEO4J_URI=neo4j_server.uri,
        FLEET_NEO4J_USER=user,
        FLEET_NEO4J_PASSWORD=password,
        FLEET_NATS_ENABLED="false",
    )
    with valkey_server.client() as client:
        queues = ("agents", "council")
        Workers(client).report(
            WorkerState(worker="w", host="h", pid=1, pool="solo", slots=1, queues=queues, at_ms=int(time.time() * 1000))
        )
    answer = server.call("GET", "/readyz")
    assert (answer.status, answer.json["dependencies"]["neo4j"]) == (200, {"state": "up"})
    assert server.call("GET", f"/v1/deliberations/{tmp_path.name}").status == 404
    assert server.call("GET", f"/v1/plans/{tmp_path.name}").status == 404
