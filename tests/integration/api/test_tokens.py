"""/v1/deliberations/{id}/tokens: heard while it is written, or never."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis.exceptions import ConnectionError

from fleet.api.services import Services
from fleet.api.tokens import TokenFeed
from fleet.events import TokensWritten
from fleet.models import Decision, Role
from fleet.settings import Settings
from fleet.store import Store
from tests.harness import Process, ValkeyServer, running, wait_until

from .conftest import ROOT, Gunicorn, finish_in

BODY = {"task_description": "Write a parser", "role": "DEV"}
Event = dict[str, str]


def message(deliberation_id: str, text: str, number: int = 1, agent_id: str = "agent.dev:1") -> TokensWritten:
    return TokensWritten(
        type="token", deliberation_id=deliberation_id, agent_id=agent_id, step="propose:0", role=Role.DEV,
        stream="s", number=number, text=text, tokens=1, position=number - 1,
    )  # fmt: skip


def publish(store: Store, *messages: TokensWritten) -> int:
    return store.tokens.publish([(one.deliberation_id, one.payload()) for one in messages])


def blocks(text: str) -> list[Event]:
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]


def follow(stream: HTTPResponse) -> Iterator[Event]:
    """The blocks of a stream as they come, comments left out."""
    block: list[str] = []
    while line := stream.readline().decode():
        if line != "\n":
            block.append(line.rstrip("\n"))
        elif block:
            if not block[0].startswith(":"):
                yield dict(one.split(": ", 1) for one in block)
            block = []


def ask(server: Gunicorn) -> str:
    return str(server.call("POST", "/v1/deliberations", BODY).json["deliberation_id"])


def listeners(store: Store) -> int:
    found: Any = store.client.client_list(_type="pubsub")
    return len(found)


@pytest.fixture
def own(valkey_server: ValkeyServer) -> Iterator[Store]:
    with closing(Store.from_settings(Settings(valkey_url=valkey_server.url))) as store:
        yield store


@pytest.fixture
def id(client: FlaskClient) -> str:
    return str(client.post("/v1/deliberations", json=BODY).json["deliberation_id"])


@pytest.fixture
def agents(valkey_server: ValkeyServer, tmp_path: Path) -> Process:
    """A worker of scripted agents, each of which takes two seconds to write."""
    command = [sys.executable, "-m", "celery", "-A", "fleet", "worker", "-Q", "agents", "-P", "threads", "-c", "3"]
    env = {"FLEET_VALKEY_URL": valkey_server.url, "FLEET_ENGINE": "scripted", "FLEET_SCRIPTED_LATENCY_S": "2"}
    return Process(command, tmp_path / "worker.log", env=env, cwd=ROOT)


def test_a_client_reads_along_while_the_agents_write_and_the_whole_is_their_answers(
    served: Gunicorn, own: Store, agents: Process
) -> None:
    id = ask(served)
    written: dict[str, list[TokensWritten]] = {}
    early = set()
    with closing(served.request("GET", f"/v1/deliberations/{id}/tokens")) as stream:
        events = follow(stream)
        assert next(events) == {"retry": "1000"}
        with running(agents):
            for event in events:
                told = TokensWritten.model_validate_json(event["data"])
                assert event.keys() == {"event", "data"}
                assert event["event"] == f"vllm.streaming.{id}.{told.agent_id}"
                written.setdefault(told.agent_id, []).append(told)
                if told.text and told.agent_id not in own.deliberations.answers(id).get("propose:0", {}):
                    early.add(told.agent_id)
                if [one[-1].type for one in written.values()] == ["complete"] * 3:
                    break
            found = wait_until(lambda: len(given := own.deliberations.answers(id).get("propose:0", {})) == 3 and given)
        assert early == set(found)
        for agent, messages in written.items():
            assert json.loads("".join(one.text for one in messages)) == found[agent].content
            assert sum(one.type == "token" for one in messages) > 3
            assert messages[-1].position == found[agent].completion_tokens
        finish_in(own, id)
        assert list(events) == []


def test_a_stream_has_its_own_deliberation_only(served: Gunicorn, own: Store) -> None:
    id = ask(served)
    with closing(served.request("GET", f"/v1/deliberations/{id}/tokens")) as stream:
        events = follow(stream)
        next(events)
        assert publish(own, message("another", "a"), message(id, "\u2028\n\r b")) == 1
        event = next(events)
    assert event["event"] == f"vllm.streaming.{id}.agent%2Edev:1"
    assert json.loads(event["data"])["text"] == "\u2028\n\r b"
    wait_until(lambda: listeners(own) == 0, what="the client that left is noticed")


def test_a_message_of_somebody_else_is_left_out(served: Gunicorn, own: Store) -> None:
    id = ask(served)
    with closing(served.request("GET", f"/v1/deliberations/{id}/tokens")) as stream:
        events = follow(stream)
        next(events)
        own.tokens.publish([(id, "hello\n\nevent: forged"), (id, message(id, "mine").payload())])
        assert json.loads(next(events)["data"])["text"] == "mine"


def test_without_following_nothing_is_told(client: FlaskClient, id: str) -> None:
    answer = client.get(f"/v1/deliberations/{id}/tokens?follow=false")
    assert (answer.status_code, answer.mimetype, answer.text) == (200, "text/event-stream", "retry: 1000\n\n")


def test_an_unknown_deliberation_is_not_found_and_a_final_one_has_nothing_to_come(
    client: FlaskClient, id: str, finish: Callable[[str], Decision]
) -> None:
    assert client.get("/v1/deliberations/nobody/tokens").status_code == 404
    finish(id)
    assert client.get(f"/v1/deliberations/{id}/tokens").status_code == 204


@pytest.mark.parametrize("query", ["after=0", "follow=perhaps"])
def test_a_wrong_query_is_refused(client: FlaskClient, id: str, query: str) -> None:
    assert client.get(f"/v1/deliberations/{id}/tokens?{query}").status_code == 422


def test_a_stream_leaves_its_place_and_its_subscription_when_it_ends_or_has_no_body(
    client: FlaskClient, services: Services, store: Store, id: str
) -> None:
    services.long_requests.most = 1
    for _ in range(3):
        assert client.head(f"/v1/deliberations/{id}/tokens").status_code == 200
        assert client.get(f"/v1/deliberations/{id}/tokens?follow=false").status_code == 200
    with services.long_requests.one():
        assert client.get(f"/v1/deliberations/{id}/tokens").status_code == 503
    wait_until(lambda: listeners(store) == 0)


def test_a_stream_ends_with_its_process(client: FlaskClient, services: Services, id: str) -> None:
    answer = client.get(f"/v1/deliberations/{id}/tokens", buffered=False)
    chunks = iter(answer.response)
    assert next(chunks) == b"retry: 1000\n\n"
    services.stopping = lambda: True
    assert list(chunks) == []
    answer.close()


# ── the feed by itself ────────────────────────────────────────────────────────────────────────────────────────────


def feed(store: Store, over: Callable[[], bool] = lambda: False, **options: Any) -> TokenFeed:
    return TokenFeed(store.tokens.subscribe("d"), over, options.pop("stopping", lambda: False), **options)


def test_what_was_written_before_the_end_is_told_before_the_end(store: Store) -> None:
    ends = feed(store, over=lambda: True)
    publish(store, *(message("d", f"{number}", number) for number in range(1, 1001)))
    found = blocks("".join(ends.lines()))
    assert [json.loads(one["data"])["position"] for one in found[1:]] == list(range(1000))


def test_a_silent_stream_has_heartbeats(store: Store) -> None:
    beats = iter([False, False, True])
    silent = feed(store, stopping=lambda: next(beats), heartbeat_s=0.001, look_s=0.005)
    assert list(silent.lines()) == ["retry: 1000\n\n", ": heartbeat\n\n", ": heartbeat\n\n"]


def test_a_reader_that_is_too_slow_is_dropped_and_hears_so_last(new_valkey: Callable[..., ValkeyServer]) -> None:
    valkey = new_valkey("--client-output-buffer-limit", "pubsub 1mb 1mb 1")
    with closing(Store.from_settings(Settings(valkey_url=valkey.url))) as store:
        lines = feed(store).lines()
        next(lines)
        sent = 0
        while publish(store, message("d", "x" * 100_000, sent + 1)):
            sent += 1
        found = blocks("".join(lines))
    assert found[-1]["event"] == "fleet.gap"
    assert json.loads(found[-1]["data"])["reason"]
    assert len(found) < sent


def test_a_valkey_that_goes_away_ends_the_stream_and_says_so(new_valkey: Callable[..., ValkeyServer]) -> None:
    valkey = new_valkey()
    with closing(Store.from_settings(Settings(valkey_url=valkey.url))) as store:
        lines = feed(store).lines()
        next(lines)
        valkey.kill()
        assert [one["event"] for one in blocks("".join(lines))] == ["fleet.gap"]
        with pytest.raises(ConnectionError):
            store.tokens.subscribe("d")
