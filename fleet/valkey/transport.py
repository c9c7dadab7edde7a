"""kombu's Redis transport for workers that outlive ValKey and for work that outlives its worker.

Usable by any Celery application: call `install()` before the first connection and pass `BROKER_TRANSPORT_OPTIONS`.

* A worker survives a restart of ValKey. The stock transport asks a closed channel for its connection's host name and
  raises AttributeError, which nobody catches; here it is a ConnectionError, which Celery answers by reconnecting.
* `visibility_timeout` is a lease, renewed by a thread of the worker for what it holds. A task may run for hours, yet
  what a killed, stopped or cut-off worker held goes back to its queue within lease + `unacked_restore_interval`.
  The thread beats on while the event loop is blocked (pool solo), so a lease tells that the process lives, not that
  its tasks make progress: time limits are for that.
* All times are the server's, so the clocks of the workers' machines do not matter.
* Each delivery gets a tag of its own. A stopped worker that wakes up may finish its copy, but neither its
  acknowledgement nor its renewals touch the copy that was delivered to another worker in the meantime.
* What runs while the connection is lost is neither given back nor forgotten: its lease is renewed and its
  acknowledgement made as soon as ValKey answers again, so it does not run a second time.
* A message is taken from its queue and registered as held in one step, so no instant of a worker's death loses it. To
  that end a worker waits for tokens in a list beside the queue (its name, kombu's separator, "wake"). A producer
  without this transport leaves no token; a waiting worker notices its messages within the second that a wait lasts.

A task can still run twice (its worker was stopped for longer than the lease, or ValKey lost its last second), so tasks
must be idempotent.
"""

# mypy: disable-error-code="no-untyped-call"

import contextlib
import logging
import sys
import threading
import time
from functools import cached_property
from queue import Empty
from typing import Any, NamedTuple
from uuid import uuid4

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps, loads
from redis import ConnectionPool, Redis
from redis.exceptions import ConnectionError, NoPermissionError, RedisError

from fleet.valkey.envelopes import Message, tagged

__all__ = ["BROKER_TRANSPORT_OPTIONS", "Channel", "QoS", "Transport", "install"]

logger = logging.getLogger(__name__)

BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
    "visibility_timeout": 12,  # s; the lease: what a dead worker held runs elsewhere this much later
    "unacked_restore_interval": 2,  # s between two looks for lapsed leases, in every worker
    "unacked_restore_throttle": 1,  # every look counts; the default of 10 would make it 20 s
    "socket_timeout": 10,  # s; a half-open connection must not block the event loop for ever
    "socket_connect_timeout": 5,  # s; the kernel's own limit is minutes
    "socket_keepalive": True,  # notices a peer that vanished without closing
    "health_check_interval": 25,  # s; a connection idle for longer is pinged before it is used
}
"""Recommended `broker_transport_options`. Every worker of a broker must use this transport: a stock worker renews
nothing, so what it runs for longer than the lease is run again elsewhere."""

RENEWALS_PER_LEASE = 4  # three may fail before a lease lapses
RETRY_S = 0.5  # between attempts to renew and acknowledge while ValKey is away
RESTORE_LIMIT = 1000  # messages per look; the stock transport takes ten
BROKER_ERRORS = (RedisError, OSError)

# A full server (noeviction) refuses new messages, not the scripts that begin so: they take, renew and give back.
NOW = "#!lua flags=allow-oom\nlocal time = redis.call('TIME') local now = time[1] + time[2] / 1000000 "

# A token per message for those who wait; a hundred are plenty, since who found a message looks again unasked.
WAKE = """
local function wake(key)
  redis.call('LPUSH', key, 1)
  redis.call('LTRIM', key, 0, 99)
  redis.call('EXPIRE', key, 60)
end
"""

PUT = (
    WAKE
    + """
redis.call('LPUSH', KEYS[1], ARGV[1])
for i = 3, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
wake(KEYS[2])
"""
)

# The entry is the stock transport's: [payload, exchange, routing key], here the default exchange and the queue.
TAKE = (
    NOW
    + """
for i = 3, #KEYS do
  local payload = redis.call('RPOP', KEYS[i])
  if payload then
    local queue = ARGV[i - 1]
    if queue ~= '' then
      redis.call('ZADD', KEYS[1], now, ARGV[1])
      redis.call('HSET', KEYS[2], ARGV[1], '[' .. payload .. ',"",' .. queue .. ']')
    end
    return {i - 3, payload}
  end
end
"""
)

# XX: what was restored stays restored.
RENEW = (
    NOW
    + """
for _, tag in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 'XX', now, tag) end
"""
)

SETTLE = """
for _, tag in ipairs(ARGV) do
  redis.call('ZREM', KEYS[1], tag)
  redis.call('HDEL', KEYS[2], tag)
end
"""

# Nobody could renew while the server was down: after its start every holder gets a whole lease to come back.
LAPSED = (
    NOW
    + """
local info = redis.pcall('INFO', 'server')
local uptime = type(info) == 'string' and tonumber(string.match(info, 'uptime_in_seconds:(%d+)'))
if uptime and uptime <= tonumber(ARGV[1]) then return {} end
return redis.call('ZRANGE', KEYS[1], '-inf', now - ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
"""
)

# Only one caller can delete the entry, so any number of workers may restore at once and need no lock that one of them
# could take to its grave. A lease that was renewed since it was seen to lapse is left alone.
RESTORE = (
    NOW
    + WAKE
    + """
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) > now - ARGV[2] then return end
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return end
for i = 3, #KEYS, 2 do
  redis.call(ARGV[3], KEYS[i], ARGV[4])
  wake(KEYS[i + 1])
end
"""
)


def install() -> None:
    """Puts the transport behind `redis://` and `rediss://` in this process; repeatable, before the first connection."""
    TRANSPORT_ALIASES["redis"] = TRANSPORT_ALIASES["rediss"] = f"{__name__}:Transport"


def _evaluate(client: Redis, script: str, keys: list[str], *args: Any) -> Any:
    """Runs a script in one round trip; never by its hash, which a restarted server has forgotten."""
    return client.eval(script, len(keys), *keys, *args)


def _stopping() -> bool:
    state = sys.modules.get("celery.worker.state")
    flags = (getattr(state, name, None) for name in ("should_stop", "should_terminate"))
    return any(flag is not None and flag is not False for flag in flags)  # 0 is an exit code


def active_requests() -> list[Any]:
    """The tasks that the pool of this worker is running; empty outside Celery workers."""
    state = sys.modules.get("celery.worker.state")
    while True:
        try:
            return list(state.active_requests) if state else []
        except RuntimeError:  # another thread started or ended a task meanwhile
            continue


def _running_tags() -> set[str]:
    return {request.message.delivery_tag for request in active_requests()}


class QoS(kombu_redis.QoS):
    """What one channel holds: registered in ValKey under a lease until it is acknowledged, rejected or lapses."""

    channel: "Channel"

    def __init__(self, channel: "Channel", prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._held: set[str] = set()
        self._unsettled: set[str] = set()  # acknowledged while ValKey was away
        self._others = False  # whether messages of queues that are not this user's were found
        self._keeper: threading.Thread | None = None

    def append(self, message: virtual.Message, delivery_tag: str) -> None:
        """Notes a message that `Channel` has taken, and so registered, already."""
        self._held.add(delivery_tag)
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, args=(self._client,), name="lease-keeper", daemon=True)
            self._keeper.start()
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Settles a message; while ValKey is away the keeper repeats it, so what was done is not done again."""
        self._held.discard(delivery_tag)
        self._unsettled.add(delivery_tag)
        try:
            self._settle([delivery_tag])
        except BROKER_ERRORS:
            logger.warning("ValKey is away: an acknowledgement is repeated until it answers")
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not requeue:
            return self.ack(delivery_tag)
        self._held.discard(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)
        return self.restore_by_tag(delivery_tag, self._client, leftmost=True)

    def restore_unacked(self, client: Redis | None = None) -> None:
        """Gives back what a closing channel holds, except what runs on in a worker that is about to reconnect."""
        self._flush()
        running = set() if _stopping() else _running_tags()
        self._held &= running
        given_back = [tag for tag in self._delivered if tag not in running]
        self._delivered.clear()
        try:
            for tag in given_back:
                self.restore_by_tag(tag, client or self._client)
        except BROKER_ERRORS:
            logger.warning("ValKey is away: unacknowledged messages go back when their lease lapses")

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:  # noqa: ARG002
        """Puts messages whose lease has lapsed back into their queues; called every `unacked_restore_interval`."""
        self._vrestore_count += 1
        if (self._vrestore_count - 1) % (interval or 1):
            return
        lease = self.visibility_timeout
        with self.channel.conn_or_acquire() as client:
            keys = self.channel.registry_keys[:1]
            for tag in _evaluate(client, LAPSED, keys, lease, num or RESTORE_LIMIT):
                self._restore_lapsed(tag.decode(), client, lease)

    def _restore_lapsed(self, tag: str, client: Redis, lease: float) -> None:
        """Leaves to others what is from a queue that this user of ValKey may not write."""
        try:
            self.restore_by_tag(tag, client, unrenewed_s=lease)
        except NoPermissionError as error:
            if not self._others:
                logger.warning("Lapsed messages of other users' queues are left to those: %s", error)
            self._others = True

    def restore_by_tag(
        self, tag: str, client: Redis | None = None, leftmost: bool = False, unrenewed_s: float = 0
    ) -> None:
        """Moves one message back into its queue, unless it is gone or its lease is younger than `unrenewed_s`."""
        with self.channel.conn_or_acquire(client) as connection:
            entry = connection.hget(self.unacked_key, tag)
            keys, payload = self.channel.way_back(entry) if entry else ([], "")
            side = "LPUSH" if leftmost else "RPUSH"  # messages are taken from the right
            _evaluate(connection, RESTORE, [*self.channel.registry_keys, *keys], tag, unrenewed_s, side, payload)

    @property
    def _pause_s(self) -> float:
        return float(self.visibility_timeout) / RENEWALS_PER_LEASE

    @cached_property
    def _client(self) -> Redis:
        """Connections of its own: they outlive the channel, and a fork finds no lock of theirs held by a thread."""
        pool: ConnectionPool = self.channel._get_pool()
        pool.connection_kwargs.update(socket_timeout=self._pause_s, socket_connect_timeout=self._pause_s)
        pool.max_connections = 1000  # one for each thread that acknowledges at the same time
        return Redis(connection_pool=pool)

    def _keep(self, client: Redis) -> None:
        """Renews until the channel is closed and nothing that it held runs or waits for its acknowledgement."""
        failing = False
        while not self.channel.closed or self._held or self._unsettled:
            try:
                self._renew()
                failing = False
            except BROKER_ERRORS as error:
                if not failing:
                    logger.warning("Leases cannot be renewed, trying again every %g s: %s", RETRY_S, error)
                failing = True
            time.sleep(RETRY_S if failing else self._pause_s)
        client.connection_pool.disconnect()

    def _renew(self) -> None:
        if self.channel.closed:
            self._held &= _running_tags()
        if unsettled := self._unsettled.copy():
            self._settle(list(unsettled))
        if held := self._held.copy():
            _evaluate(self._client, RENEW, self.channel.registry_keys[:1], *held)

    def _settle(self, tags: list[str]) -> None:
        _evaluate(self._client, SETTLE, self.channel.registry_keys, *tags)
        self._unsettled.difference_update(tags)


def list_key(queue: str, priority: int = 0) -> str:
    """The list that holds a queue's messages of one priority: 0, 3, 6 or 9; lower ones are taken first."""
    return f"{queue}{kombu_redis.Channel.sep}{priority}" if priority else queue


def list_keys(queue: str) -> list[str]:
    """All lists of a queue."""
    return [list_key(queue, priority) for priority in kombu_redis.Channel.priority_steps]


class Asked(NamedTuple):
    """What the polled connection was asked for: a message under a fresh tag, from lists that belong to `queues`."""

    tag: str
    queues: list[str]


class Channel(kombu_redis.Channel):
    """Takes and registers each message in one step, and knows when its connection is gone."""

    QoS = QoS
    Message = Message

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unregistered_queues: set[str] = set()
        self._asked: Asked | None = None
        self._look = True
        super().__init__(*args, **kwargs)

    @property
    def registry_keys(self) -> list[str]:
        """The sorted set of tags by last renewal and the hash of messages by tag."""
        return [self.global_keyprefix + self.unacked_index_key, self.global_keyprefix + self.unacked_key]

    def way_back(self, entry: bytes) -> tuple[list[str], str | bytes]:
        """List and token keys of the queues that a registered message came from, and its payload for them."""
        try:
            payload, exchange, routing_key = loads(entry)
        except ValueError:
            return self._way_back_unread(entry)
        with contextlib.suppress(KeyError, TypeError):  # as the stock transport: only messages that have these fields
            payload["headers"]["redelivered"] = payload["properties"]["delivery_info"]["redelivered"] = True
        priority = self._get_message_priority(payload)
        queues = self._lookup(exchange, routing_key)
        return [key for queue in queues for key in self._put_keys(queue, priority)], dumps(payload)

    def _way_back_unread(self, entry: bytes) -> tuple[list[str], str | bytes]:
        """The same for a message that is no JSON: whoever takes it again is to have it as it came."""
        with contextlib.suppress(ValueError):
            raw, _, queue = entry.removeprefix(b"[").removesuffix(b"]").rpartition(b',"",')
            return self._put_keys(loads(queue), 0), raw
        logger.critical("Unreadable message moved to the list %s.unreadable", self.unacked_key)
        key = f"{self.global_keyprefix}{self.unacked_key}.unreadable"
        return [key, key + ".wake"], entry.decode(errors="replace")

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> None:
        (self._unregistered_queues.add if no_ack else self._unregistered_queues.discard)(queue)
        super().basic_consume(queue, no_ack, *args, **kwargs)

    def basic_get(self, queue: str, no_ack: bool = False, **_: Any) -> virtual.Message | None:
        tag = str(uuid4())
        with self.conn_or_acquire() as client:
            self._maybe_update_queues_expire(client, queue)
            taken = client.eval(*self._take(tag, [queue], {queue} if no_ack else set()))
        if not taken:
            return None
        message = self.Message(tagged(taken[1], tag), channel=self)
        if not no_ack:
            self.qos.append(message, tag)
        return message

    def close(self) -> None:
        try:
            super().close()
        except BROKER_ERRORS:  # nothing is left to say to a server that is away
            self._disconnect_pools()
            self._close_clients()
            with contextlib.suppress(*BROKER_ERRORS):
                virtual.Channel.close(self)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection is None or self.connection.client is None:
            raise ConnectionError("channel belongs to a closed broker connection")
        params: dict[str, Any] = super()._connparams(asynchronous)
        return params

    def _put(self, queue: str, message: dict[str, Any], _publish_batch: Any = None, **_: Any) -> None:
        keys = self._put_keys(queue, self._get_message_priority(message))
        if expires_ms := self._expires.get(queue):
            keys += self._list_keys([queue])
        command = (PUT, len(keys), *keys, dumps(message), expires_ms or "")
        if _publish_batch is not None:
            _publish_batch.add("eval", *command)
            return
        with self.conn_or_acquire() as client:
            client.eval(*command)

    def _put_keys(self, queue: str, priority: int) -> list[str]:
        return [self.global_keyprefix + self._q_for_pri(queue, priority), self._wake_key(queue)]

    def _list_keys(self, queues: list[str]) -> list[str]:
        prefix = self.global_keyprefix
        return [prefix + self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]

    def _wake_key(self, queue: str) -> str:
        return f"{self.global_keyprefix}{queue}{self.sep}wake"

    def _take(self, tag: str, queues: list[str], unregistered: set[str]) -> list[Any]:
        names = ["" if queue in unregistered else dumps(queue) for queue in queues] * len(self.priority_steps)
        keys = [*self.registry_keys, *self._list_keys(queues)]
        return [TAKE, len(keys), *keys, tag, *names]

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Asks for a message after a token or a find, else waits for a token, on the polled connection."""
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        if self._look:
            self._asked = Asked(str(uuid4()), queues)
            unregistered = self._unregistered_queues if self.ack_emulation else set(queues)
            command = ["EVAL", *self._take(self._asked.tag, queues, unregistered)]
        else:
            self._asked = None
            command = ["BRPOP", *map(self._wake_key, queues), timeout or self.brpop_timeout]
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()  # type: ignore[assignment]
        self.client.connection.send_command(*command)

    def _brpop_read(self, **options: Any) -> bool:
        asked = self._asked
        try:
            found = self._polled_reply(**options)
            self._look = found is not None or asked is None
            if asked is None or found is None:
                raise Empty
            queue = asked.queues[found[0] % len(asked.queues)]
            self._queue_cycle.rotate(queue)
            self.connection._deliver(tagged(found[1], asked.tag), queue)
            return True
        finally:
            self._in_poll = False
            self._flush_brpop_reauth()

    def _polled_reply(self, **options: Any) -> list[Any] | None:
        try:
            reply: list[Any] | None = Redis.parse_response(self.client, self.client.connection, "EVAL", **options)
        except self.connection_errors as error:
            self.client.connection.disconnect()
            if self._closing:
                raise Empty from error
            raise
        return reply


class Transport(kombu_redis.Transport):
    """kombu's Redis transport over `Channel`."""

    Channel = Channel
