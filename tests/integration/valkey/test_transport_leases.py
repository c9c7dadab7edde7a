"""The lease of one message, step by step on a real ValKey, without workers."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer, Producer
from kombu.transport import redis as stock

from fleet.valkey.transport import Transport
from tests.harness import ValkeyServer, running, wait_until

QUEUE = "leases"
LEASE_S = 1.0


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path)
    with running(server):
        yield server


def connection(server: ValkeyServer, transport: type = Transport, **options: Any) -> Connection:
    return Connection(
        server.url,
        transport=transport,
        transport_options={"visibility_timeout": LEASE_S, "unacked_restore_throttle": 1, **options},
    )


def publish(channel: Any, *bodies: str, queue: str = QUEUE) -> None:
    producer = Producer(channel)
    for body in bodies:
        producer.publish(body, routing_key=queue)


def get(channel: Any) -> Any:
    return channel.basic_get(QUEUE)


def abandon(server: ValkeyServer, *bodies: str) -> None:
    """Registers messages whose holder is long gone."""
    with server.client() as client, connection(server) as source:
        publish(source.default_channel, *bodies)
        for number in range(len(bodies)):
            client.hset("unacked", f"tag-{number}", f'[{client.rpop(QUEUE)}, "", "{QUEUE}"]')
            client.zadd("unacked_index", {f"tag-{number}": 1})


def up_for_a_lease(server: ValkeyServer) -> bool:
    with server.client() as client:
        return int(client.info("server")["uptime_in_seconds"]) > LEASE_S


def test_hundreds_of_lapsed_messages_come_back_in_one_look(valkey: ValkeyServer) -> None:
    bodies = [f"message {number:03}" for number in range(300)]
    abandon(valkey, *bodies)
    wait_until(lambda: up_for_a_lease(valkey))
    with connection(valkey) as there:
        there.default_channel.qos.restore_visible()
        restored = [get(there.default_channel) for _ in bodies]
        assert sorted(message.payload for message in restored) == bodies
        assert all(message.headers["redelivered"] for message in restored)


def test_holders_get_a_whole_lease_after_valkey_has_started(valkey: ValkeyServer) -> None:
    abandon(valkey, "one")
    valkey.stop()
    valkey.start()
    with connection(valkey, visibility_timeout=2) as there, valkey.client() as client:
        there.default_channel.qos.restore_visible()
        assert client.llen(QUEUE) == 0

        def restored() -> int:
            there.default_channel.qos.restore_visible()
            return int(client.llen(QUEUE))

        wait_until(restored, what="the message is back once a lease has passed")


def test_renewed_lease_is_not_taken_by_one_who_saw_it_lapsed(valkey: ValkeyServer) -> None:
    with connection(valkey) as there, valkey.client() as client:
        channel = there.default_channel
        publish(channel, "one")
        message = get(channel)
        channel.qos.restore_by_tag(message.delivery_tag, unrenewed_s=LEASE_S)
        assert (client.llen(QUEUE), client.hlen("unacked")) == (0, 1)


def test_restored_message_is_not_revived_by_its_former_holder(valkey: ValkeyServer) -> None:
    with connection(valkey) as there, valkey.client() as client:
        channel = there.default_channel
        publish(channel, "one")
        message = get(channel)
        channel.qos.restore_by_tag(message.delivery_tag)
        channel.qos._renew()
        assert client.zcard("unacked_index") == 0
        again = get(channel)
        assert again.payload == "one"
        message.ack()
        assert client.hlen("unacked") == 1, "the second delivery is still held"
        again.ack()
        assert client.hlen("unacked") == 0


def test_lapsed_messages_of_queues_that_are_not_ones_own_stop_nobody(valkey: ValkeyServer) -> None:
    abandon(valkey, "theirs", "own")
    with valkey.client() as client:
        client.hset("unacked", "tag-0", client.hget("unacked", "tag-0").replace(f'"{QUEUE}"]', '"theirs"]'))
        client.zadd("unacked_index", {"tag-0": 0})  # the first to be looked at
        own = [f"~{QUEUE}*", "~unacked*", "~_kombu*"]
        client.execute_command("ACL", "SETUSER", "poor", "on", ">x", "+@all", "allchannels", *own)
        wait_until(lambda: up_for_a_lease(valkey))
        options = {"visibility_timeout": LEASE_S, "unacked_restore_throttle": 1}
        url = f"redis://poor:x@127.0.0.1:{valkey.port}/0"
        with Connection(url, transport=Transport, transport_options=options) as there:
            there.default_channel.qos.restore_visible()
        assert (client.llen(QUEUE), client.hkeys("unacked")) == (1, ["tag-0"])


def test_any_number_of_workers_may_restore_at_once(valkey: ValkeyServer) -> None:
    bodies = [f"message {number:03}" for number in range(100)]
    abandon(valkey, *bodies)
    wait_until(lambda: up_for_a_lease(valkey))
    connections = [connection(valkey) for _ in range(4)]
    threads = [threading.Thread(target=there.default_channel.qos.restore_visible) for there in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with valkey.client() as client:
        assert (client.llen(QUEUE), client.hlen("unacked"), client.zcard("unacked_index")) == (100, 0, 0)
    for there in connections:
        there.release()


@pytest.mark.parametrize("raw", [b"not json", b"\xff", b'"text"', b"[1]", b'a,"",b'])
def test_what_is_no_message_comes_back_as_it_was_when_its_holder_died(valkey: ValkeyServer, raw: bytes) -> None:
    with connection(valkey) as there, valkey.client() as client:
        channel = there.default_channel
        channel.queue_declare(QUEUE)
        client.lpush(QUEUE, raw)
        taken = get(channel)
        assert (taken.body, taken.headers) == (raw, {})
        channel.qos.restore_by_tag(taken.delivery_tag)
        again = get(channel)
        assert (again.body, again.headers) == (raw, {})
        again.ack()
        assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 0)


def test_unreadable_message_is_set_aside_and_stops_nobody(valkey: ValkeyServer) -> None:
    abandon(valkey, "one")
    with valkey.client() as client, connection(valkey) as there:
        client.hset("unacked", "bad", "[not json")
        client.zadd("unacked_index", {"bad": 0, "without message": 0})
        wait_until(lambda: up_for_a_lease(valkey))
        there.default_channel.qos.restore_visible()
        assert client.lrange("unacked.unreadable", 0, -1) == ["[not json"]
        assert (client.llen(QUEUE), client.zcard("unacked_index")) == (1, 0)


def test_full_valkey_refuses_new_messages_but_lets_workers_drain_it(valkey: ValkeyServer) -> None:
    with connection(valkey) as there, valkey.client() as client:
        channel = there.default_channel
        publish(channel, "one")
        client.config_set("maxmemory", "1mb")
        with pytest.raises(there.connection_errors + there.channel_errors):
            publish(channel, "two")
        message = get(channel)
        channel.qos._renew()
        message.requeue()
        get(channel).ack()
        assert not client.exists(QUEUE, "unacked", "unacked_index")


def test_closed_channel_fails_as_a_lost_connection_does_yet_settles_what_it_held(valkey: ValkeyServer) -> None:
    with connection(valkey) as there, valkey.client() as client:
        channel = there.default_channel
        publish(channel, "one")
        message = get(channel)
        there.collect()
        with pytest.raises(there.connection_errors):
            channel._size(QUEUE)
        message.ack()
        assert (client.llen(QUEUE), client.hlen("unacked")) == (1, 0), "given back when it was closed"


@pytest.mark.parametrize("source", ["published", "restored"])
def test_waiting_consumer_is_woken_by_what_is(valkey: ValkeyServer, source: str) -> None:
    received: list[str] = []
    wait_s = 60  # between two looks of a consumer that nobody wakes
    with (
        connection(valkey) as there,
        connection(valkey) as elsewhere,
        valkey.client() as client,
    ):
        if source == "restored":
            publish(elsewhere.default_channel, "one")
            message = get(elsewhere.default_channel)
        queue, channel = there.SimpleQueue(QUEUE).queue, there.channel()
        channel.brpop_timeout = wait_s
        with Consumer(channel, queue, on_message=lambda message: received.append(message.payload)):
            consumer = threading.Thread(target=there.drain_events, kwargs={"timeout": wait_s / 2})
            consumer.start()
            wait_until(lambda: client.info("clients")["blocked_clients"], what="the consumer waits")
            if source == "restored":
                message.requeue()
            else:
                publish(elsewhere.default_channel, "one")
            consumer.join()
    assert received == ["one"]


def test_rejected_message_goes_to_the_back_of_its_queue(valkey: ValkeyServer) -> None:
    with connection(valkey) as there:
        channel = there.default_channel
        publish(channel, "one", "two")
        get(channel).requeue()
        assert [get(channel).payload, get(channel).payload] == ["two", "one"]


@pytest.mark.parametrize("options", [{}, {"global_keyprefix": "app:"}], ids=["plain", "prefixed"])
def test_consumer_takes_what_batches_stock_producers_and_priorities_publish(
    valkey: ValkeyServer, options: dict[str, str]
) -> None:
    received: list[str] = []
    with (
        connection(valkey, **options) as there,
        connection(valkey, stock.Transport, **options) as elsewhere,
        valkey.client() as client,
    ):
        publish(elsewhere.default_channel, "stock")
        producer = Producer(there.default_channel)
        with producer.batch():
            producer.publish("batched", routing_key=QUEUE)
        producer.publish("urgent", routing_key=QUEUE, priority=9)
        queue = there.SimpleQueue(QUEUE).queue
        with Consumer(
            there.channel(), queue, on_message=lambda message: (received.append(message.payload), message.ack())
        ):
            wait_until(lambda: _drain(there) or len(received) == 3, what="all are received")
        assert set(received) == {"stock", "batched", "urgent"}
        assert client.keys("*unacked*") == []


def _drain(there: Connection) -> None:
    try:
        there.drain_events(timeout=0.1)
    except TimeoutError:
        return
