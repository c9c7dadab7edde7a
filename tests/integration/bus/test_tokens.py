"""What agents write reaches NATS in order and once, and never holds up anything else."""

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import nats
import pytest
import structlog.testing
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import RawStreamMsg

from fleet.bus import relay
from fleet.bus.tokens import MOST_BYTES, TokenRelay
from fleet.events import TokensWritten
from fleet.models import Role
from fleet.store import Store
from tests.harness import NatsServer, ValkeyServer, wait_until
from tests.integration.bus.harness import Loop, Outside, Running, store_of

STREAM = "VLLM_STREAMING"
AGENT = "agent.dev:1"


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LEASE_S", 2.0)


def message(number: int, text: str = "text", agent_id: str = AGENT, stream: str = "one") -> TokensWritten:
    return TokensWritten(
        type="token", deliberation_id="d-1", agent_id=agent_id, step="propose:0", role=Role.DEV, model="small",
        stream=stream, number=number, text=text, tokens=1, position=number,
    )  # fmt: skip


def publish(store: Store, *messages: TokensWritten) -> int:
    return store.tokens.publish([(one.deliberation_id, one.payload()) for one in messages])


def listeners(store: Store) -> int:
    found: Any = store.client.client_list(_type="pubsub")
    return len(found)


def listening(store: Store, outside: Outside, count: int = 1) -> None:
    wait_until(lambda: listeners(store) == count and outside.stream(STREAM), what="the relay listens")


def arrived(outside: Outside, count: int) -> list[RawStreamMsg]:
    wait_until(lambda: len(outside.messages(STREAM)) >= count, what=f"{count} messages")
    return outside.messages(STREAM)


def test_tokens_arrive_in_order_under_their_deliberation_and_agent(
    server: NatsServer, outside: Outside, store: Store
) -> None:
    with Running(store, server.url):
        listening(store, outside)
        sent = [message(number) for number in range(300)]
        assert publish(store, *sent) == 300
        found = arrived(outside, 300)
    assert [TokensWritten.model_validate_json(one.data or b"") for one in found] == sent
    assert {one.subject for one in found} == {"vllm.streaming.d-1.agent%2Edev:1"}
    fields = {"type", "text", "position", "model", "timestamp", "deliberation_id", "agent_id", "step"}
    assert fields <= json.loads(found[0].data or b"").keys()


@contextlib.contextmanager
def leading(store: Store, server: NatsServer) -> Iterator[tuple[TokenRelay, Client]]:
    """A relay of tokens by itself; beside a listener, it is a leader that does not know yet that it leads no more."""
    relay, loop = TokenRelay(store), Loop()
    client = loop.call(nats.connect(server.url))
    work = loop.start(relay.run(client))
    try:
        yield relay, client
    finally:
        others = listeners(store) - 1
        work.cancel()
        wait_until(lambda: listeners(store) <= others, what="it has hung up")
        loop.call(client.close())
        loop.close()


def test_two_leaders_do_not_double_and_another_run_is_no_double(
    server: NatsServer, outside: Outside, store: Store
) -> None:
    copies: list[str] = []

    async def hear(heard: Msg) -> None:
        copies.append(heard.subject)

    with Running(store, server.url), leading(store, server):
        listening(store, outside, 2)
        outside._loop.call(outside._client.subscribe("vllm.streaming.>", cb=hear))
        outside._loop.call(outside._client.flush())
        publish(store, *(message(number) for number in range(50)))
        publish(store, *(message(number, stream="another run") for number in range(50)))
        wait_until(lambda: len(copies) == 200, what="both have published all")
        found = [json.loads(one.data or b"") for one in arrived(outside, 100)]
    for stream in ("one", "another run"):
        assert [one["number"] for one in found if one["stream"] == stream] == list(range(50))
    assert len(found) == 100


def test_a_nats_that_is_slow_costs_text_and_no_memory_and_is_told_of_once(server: NatsServer, store: Store) -> None:
    with leading(store, server) as (relay, client), structlog.testing.capture_logs() as logs:
        wait_until(lambda: listeners(store) == 1)
        assert server.popen is not None
        os.kill(server.popen.pid, signal.SIGSTOP)
        large = (message(number, "x" * 60_000) for number in itertools.count())
        wait_until(lambda: publish(store, next(large)) and relay.dropped > 10, what="it drops")
        assert client.pending_data_size < MOST_BYTES + 100_000
        os.kill(server.popen.pid, signal.SIGCONT)
        wait_until(lambda: publish(store, next(large)) and relay.dropped == 0, what="it flows again")
    told = [(entry["event"], entry.get("dropped", 0) > 10) for entry in logs if entry["event"].startswith("tokens_")]
    assert told == [("tokens_dropped", False), ("tokens_flow_again", True)]


def test_what_is_no_message_is_left_out(server: NatsServer, outside: Outside, store: Store) -> None:
    with Running(store, server.url):
        listening(store, outside)
        store.tokens.publish([("d-1", "hello"), ("d-1", "{}")])
        publish(store, message(1))
        assert len(arrived(outside, 1)) == 1


def test_tokens_flow_again_when_valkey_is_back(
    server: NatsServer, outside: Outside, new_valkey: Callable[..., ValkeyServer]
) -> None:
    valkey = new_valkey()
    with store_of(valkey) as store, Running(store, server.url):
        listening(store, outside)
        valkey.kill()
        valkey.start()
        numbers = itertools.count()
        wait_until(lambda: publish(store, message(next(numbers))), what="it listens again")
        assert arrived(outside, 1)


def test_a_listener_that_stops_or_stands_by_does_not_listen(server: NatsServer, outside: Outside, store: Store) -> None:
    with Running(store, server.url) as listener:
        listening(store, outside)
        store.client.set("fleet:relay:lease", "somebody else", px=60_000)
        wait_until(lambda: not listener._listener._relay.leading)
        wait_until(lambda: listeners(store) == 0, what="it has hung up")
        store.client.delete("fleet:relay:lease")
        listening(store, outside)
    wait_until(lambda: listeners(store) == 0, what="it has hung up")
