"""The relay: every event of the log in its stream, once and in the log's order, whatever is killed."""

import asyncio
import random
import threading
import time
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from fleet.bus import relay
from fleet.bus.relay import Publisher
from fleet.bus.streams import STREAMS, stream_of
from fleet.events import PLAN_APPROVED
from fleet.store import ListenerState, LoggedEvent, Store
from tests.harness import NatsServer, ValkeyServer, running, wait_until
from tests.integration.bus.harness import PLANS, Outside, Running, listener_process, plan_event

SUBJECTS = ("orchestration.task.dispatched", "agent.results.d-1", "orchestration.deliberation.stepped")


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LEASE_S", 2.0)


def append(store: Store, subject: str, payload: str = '{"n":1}') -> str:
    id: Any = store.client.xadd("fleet:events", {"subject": subject, "payload": payload})
    return str(id)


def append_many(store: Store, count: int) -> dict[str, list[str]]:
    """Appends events of several streams; their ids by stream, in order."""
    ids: dict[str, list[str]] = {}
    for number in range(count):
        subject = SUBJECTS[number % len(SUBJECTS)]
        ids.setdefault(str(stream_of(subject)), []).append(append(store, subject, f'{{"n":{number}}}'))
    return ids


def caught_up(store: Store) -> bool:
    return store.events.cursor() == store.events.newest_id()


def leaders(store: Store) -> list[ListenerState]:
    return [listener for listener in store.listeners.list() if listener.relay == "leader"]


def test_every_event_is_relayed_once_in_order_with_its_id(server: NatsServer, outside: Outside, store: Store) -> None:
    before = append_many(store, 450)
    with Running(store, server.url):
        wait_until(lambda: caught_up(store))
        after = append_many(store, 30)
        wait_until(lambda: caught_up(store))
    for stream in before:
        assert outside.relayed(stream) == before[stream] + after[stream]
    first = outside.messages("AGENT_RESULTS")[0]
    assert (first.subject, first.data) == ("agent.results.d-1", b'{"n":1}')
    assert (first.headers or {})["Fleet-Format"] == "1"
    assert (first.headers or {})["Nats-Msg-Id"] == f"{store.events.instance()}:{before['AGENT_RESULTS'][0]}"


def test_relays_killed_at_any_moment_and_a_restarted_nats_neither_lose_nor_repeat_nor_reorder(
    server: NatsServer, outside: Outside, store: Store, valkey_server: ValkeyServer, tmp_path: Path
) -> None:
    ids: dict[str, list[str]] = {}
    done = threading.Event()

    def produce() -> None:
        while not done.is_set():
            wait_until(lambda: done.is_set() or store.events.backlog() < 300)
            for stream, more in append_many(store, 60).items():
                ids.setdefault(stream, []).extend(more)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for number in range(4):
            cursor = store.events.cursor()
            process = listener_process(tmp_path, valkey_server, server, LEASE_S="1")
            with running(process):
                wait_until(lambda: store.events.cursor() != cursor)  # noqa: B023
                time.sleep(random.uniform(0, 0.1))  # the moment of death, not a wait for anything
                if number == 2:
                    server.kill()
                    server.start()
                process.kill()
    finally:
        done.set()
        producer.join()
    with Running(store, server.url):
        wait_until(lambda: caught_up(store), timeout_s=60)
    for stream, expected in ids.items():
        assert outside.relayed(stream) == expected


def test_one_of_two_relays_leads_and_the_other_takes_over_when_it_is_killed(
    server: NatsServer, outside: Outside, store: Store, valkey_server: ValkeyServer, tmp_path: Path
) -> None:
    process = listener_process(tmp_path, valkey_server, server, LEASE_S="2")
    with running(process):
        first = wait_until(lambda: leaders(store))
        with Running(store, server.url) as second:
            wait_until(lambda: len(store.listeners.list()) == 2)
            ids = append_many(store, 300)
            wait_until(lambda: caught_up(store))
            assert leaders(store) == first or [leader.listener_id for leader in leaders(store)] == [
                first[0].listener_id
            ]
            process.kill()
            later = append_many(store, 300)
            wait_until(lambda: caught_up(store))
            assert second._listener._relay.leading
    for stream in ids:
        assert outside.relayed(stream) == ids[stream] + later[stream]


def test_a_relay_that_loses_its_lease_stands_by(server: NatsServer, store: Store) -> None:
    with Running(store, server.url) as listener:
        own = listener._listener._relay
        wait_until(lambda: own.leading)
        store.client.set("fleet:relay:lease", "somebody else", px=60_000)
        wait_until(lambda: not own.leading)
        append(store, SUBJECTS[0])
        assert store.client.get("fleet:relay:lease") == "somebody else"
        store.client.delete("fleet:relay:lease")
        wait_until(lambda: caught_up(store))


def test_a_listener_that_stops_gives_its_lease_and_its_record_back(server: NatsServer, store: Store) -> None:
    with Running(store, server.url):
        wait_until(lambda: leaders(store))
    assert store.client.get("fleet:relay:lease") is None
    assert store.listeners.list() == []


def test_events_wait_in_valkey_while_nats_is_away_from_the_start(server: NatsServer, store: Store) -> None:
    server.kill()
    ids = append_many(store, 50)
    with Running(store, server.url):
        (record,) = wait_until(lambda: store.listeners.list())
        assert (record.nats, record.backlog) == ("away", 50)
        server.start()
        wait_until(lambda: caught_up(store))
    outside = Outside(server)
    for stream, expected in ids.items():
        assert outside.relayed(stream) == expected
    outside.close()


def test_plans_and_events_go_on_after_nats_restarts(server: NatsServer, outside: Outside, store: Store) -> None:
    with Running(store, server.url) as listener:
        wait_until(lambda: outside.consumer(PLANS))
        server.kill()
        ids = append_many(store, 30)
        wait_until(lambda: [state for state in store.listeners.list() if state.nats == "away"])
        server.start()
        wait_until(lambda: caught_up(store))
        wait_until(lambda: outside.stream("PLANNING_EVENTS"))
        outside.publish(PLAN_APPROVED, plan_event("after"))
        wait_until(lambda: outside.settled(PLANS, 1))
    assert listener.submissions == [("after", True)]
    assert outside.relayed("AGENT_RESULTS") == ids["AGENT_RESULTS"]


def test_a_connection_that_is_lost_with_something_still_to_be_sent_is_replaced(
    server: NatsServer, outside: Outside, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py sends what is left when it closes, fails at it and then never calls back that it is closed."""
    close = Client._close
    losses: list[Exception] = []

    async def with_something_left(client: Client, status: int, do_cbs: bool = True) -> None:
        if not losses and not client.options["allow_reconnect"]:
            transport: Any = client._transport
            client._pending, client._pending_data_size = [b"PING\r\n"], 6
            transport._io_writer.transport.abort()
        try:
            await close(client, status, do_cbs)
        except ConnectionError as error:
            losses.append(error)
            raise

    with Running(store, server.url):
        append_many(store, 3)
        wait_until(lambda: caught_up(store))
        monkeypatch.setattr(Client, "_close", with_something_left)
        server.kill()
        server.start()
        ids = append_many(store, 3)
        wait_until(lambda: caught_up(store))
    assert losses
    assert all(outside.relayed(stream)[-len(expected) :] == expected for stream, expected in ids.items())


def test_a_stream_with_another_configuration_is_reported_and_left_as_it_is(
    server: NatsServer, outside: Outside, store: Store
) -> None:
    theirs = STREAMS[0].config().evolve(max_age=3600.0, duplicate_window=60.0)
    outside.add_stream(theirs)
    with Running(store, server.url):
        wait_until(lambda: [s for s in store.listeners.list() if s.streams["PLANNING_EVENTS"] == "differs"])
        (record,) = store.listeners.list()
        outside.publish(PLAN_APPROVED, plan_event("p"))
        wait_until(lambda: outside.settled(PLANS, 1))
    assert {state for name, state in record.streams.items() if name != "PLANNING_EVENTS"} == {"ok"}
    info = outside.stream("PLANNING_EVENTS")
    assert info is not None
    assert (info.config.max_age, info.config.duplicate_window) == (3600.0, 60.0)


def test_two_listeners_create_the_streams_at_once(server: NatsServer, outside: Outside, store: Store) -> None:
    with Running(store, server.url), Running(store, server.url):
        wait_until(lambda: [s for s in store.listeners.list() if set(s.streams.values()) == {"ok"}])
    for stream in STREAMS:
        info = outside.stream(stream.name)
        assert info is not None
        assert (info.config.max_age, info.config.duplicate_window) == (stream.max_age_s, min(stream.max_age_s, 86_400))


def test_what_nats_would_never_take_is_a_dead_letter_and_does_not_hold_up_the_rest(
    server: NatsServer, outside: Outside, store: Store
) -> None:
    append(store, "nowhere.at.all")
    append(store, SUBJECTS[0], "x" * 2**20)
    id = append(store, SUBJECTS[0])
    with Running(store, server.url):
        wait_until(lambda: caught_up(store))
    assert outside.relayed("ORCHESTRATOR_EVENTS") == [id]
    reasons = sorted(letter.reason for letter in store.pages.dead_letters(100).items)
    assert "no stream has this subject" in reasons[0]
    assert "larger than" in reasons[1]


def test_an_event_that_its_stream_refuses_is_not_overtaken(server: NatsServer, outside: Outside) -> None:
    """The stream takes small messages only: the second event is refused, so the third must not be stored before it."""
    outside.add_stream(STREAMS[1].config().evolve(max_msg_size=400))
    events = [LoggedEvent(f"{n}-0", SUBJECTS[0], "x" * size) for n, size in enumerate((10, 600, 10), 1)]
    buried: list[str] = []

    async def bury(event: LoggedEvent, _: str) -> None:
        buried.append(event.id)

    async def publish() -> tuple[bool, list[str]]:
        client = await nats.connect(server.url)
        publisher = Publisher(client, "test", bury)
        together = await publisher._together(events)
        in_between = outside.relayed("ORCHESTRATOR_EVENTS")
        await publisher.publish(events)
        await client.close()
        return together, in_between

    assert asyncio.run(publish()) == (False, ["1-0"])
    assert buried == ["2-0"]
    assert outside.relayed("ORCHESTRATOR_EVENTS") == ["1-0", "3-0"]


def test_events_of_others_in_the_same_stream_do_not_stop_the_relay(
    server: NatsServer, outside: Outside, store: Store
) -> None:
    with Running(store, server.url):
        wait_until(lambda: outside.stream("ORCHESTRATOR_EVENTS"))
        ids: list[str] = []
        for _ in range(5):
            outside.publish("orchestration.custom", *[b"theirs"] * 20)
            ids += append_many(store, 60)["ORCHESTRATOR_EVENTS"]
        wait_until(lambda: caught_up(store))
    assert [id for id in outside.relayed("ORCHESTRATOR_EVENTS") if id] == ids
