"""The listener: NATS in and out. It waits for servers that are away, at its start and later; it never ends for that."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from nats.js import JetStreamContext
from redis.exceptions import RedisError

from fleet.bus.client import Client
from fleet.bus.consumers import Consumer, Inbox, ensure_consumer
from fleet.bus.relay import Relay
from fleet.bus.servers import NATS_ERRORS, Servers, delay_s, wait
from fleet.bus.streams import STREAMS, Check, ensure_stream
from fleet.store import Store
from fleet.store.listeners import ListenerState

log = structlog.get_logger(__name__)

REPORT_S = 1.0
WATCH_S = 3.0
DRAIN_S = 15.0
LOOK_S = 0.2
CLOSE_S = 5.0
OTHER_THREADS = 7  # the relay's two reads and its lease, the report, and calls whose answer nobody awaits any more


class Listener:
    """Consumes planning events and relays the event log, over one connection to NATS at a time.

    A lost connection is not repaired but replaced: nothing sent on the old one can arrive after something sent later.
    `login` is what nats-py is told of TLS and credentials, beyond the URL.
    """

    def __init__(
        self, nats_url: str, store: Store, consumers: tuple[Consumer, ...], login: Mapping[str, Any] | None = None
    ):
        self.id = f"{socket.gethostname()}:{os.getpid()}"
        self._url, self._store, self._login = nats_url, store, login or {}
        self._servers = Servers()
        self._inboxes = [Inbox(consumer, store, self._servers) for consumer in consumers]
        self._relay = Relay(store, self._servers, f"{self.id}:{secrets.token_hex(4)}")
        self._streams = {stream.name: Check("missing") for stream in STREAMS}
        self._durables = {consumer.durable: Check("missing") for consumer in consumers}
        self._connected = False
        self._last_error: Exception | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set; then lets what is in hand end, for 15 s at most."""
        threads = sum(inbox.consumer.width for inbox in self._inboxes) + OTHER_THREADS
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads, "listener"))
        log.info("listener_starts", listener_id=self.id)
        reporting = asyncio.create_task(_keep("report", lambda: self._report(stop), stop))
        failures = 0
        while not stop.is_set():
            failures = 0 if await self._connection(stop) else failures + 1
            await wait(stop, delay_s(failures + 1, first=0.25, cap=2.0))
        await reporting
        log.info("listener_stops", listener_id=self.id)

    async def _connection(self, stop: asyncio.Event) -> bool:
        """Works on one connection until it is lost or `stop` is set; False when there was none to be had."""
        over = asyncio.Event()
        client = Client()
        try:
            await self._connect(client)
        except NATS_ERRORS as error:
            self._servers.away("nats", self._last_error or error)
            return False
        watching = asyncio.create_task(_watch_connection(client, stop, over))
        self._connected = True
        self._servers.back("nats")
        try:
            await self._work(client, over)
            if stop.is_set():
                await asyncio.gather(*(inbox.drain(DRAIN_S) for inbox in self._inboxes))
            else:
                self._servers.away("nats", self._last_error or ConnectionError("the connection is closed"))
        finally:
            self._connected = False
            watching.cancel()
            await _close(client)
        return True

    async def _connect(self, client: Client) -> None:
        async def failed(error: Exception) -> None:
            self._last_error = error

        self._last_error = None
        try:
            await client.connect(
                self._url.split(","),
                name=f"fleet-listener {self.id}",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=3,
                ping_interval=5,
                max_outstanding_pings=2,
                error_cb=failed,  # its default prints a traceback
                **self._login,
            )
        except NATS_ERRORS:
            await _close(client)
            raise

    async def _work(self, client: Client, over: asyncio.Event) -> None:
        js = client.jetstream()
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "streams": lambda: self._watch(js, over),
            "relay": lambda: self._relay.run(client, over),
        }
        for inbox in self._inboxes:
            parts[inbox.consumer.durable] = lambda inbox=inbox: inbox.run(js, over)  # type: ignore[misc]
        await asyncio.gather(*(_keep(name, part, over) for name, part in parts.items()))

    async def _watch(self, js: JetStreamContext, over: asyncio.Event) -> None:
        """Creates the streams and consumers that are missing, now and whenever one is deleted."""
        while not over.is_set():
            try:
                for stream in STREAMS:
                    _note("stream", stream.name, self._streams, await ensure_stream(js, stream))
                for inbox in self._inboxes:
                    durable = inbox.consumer.durable
                    _note("consumer", durable, self._durables, await ensure_consumer(js, inbox.consumer))
                self._servers.back("jetstream")
            except NATS_ERRORS as error:
                if not over.is_set():
                    self._servers.away("jetstream", error)
            await wait(over, WATCH_S)

    async def _report(self, stop: asyncio.Event) -> None:
        """Keeps this listener's record in ValKey fresh, and removes it at the end."""
        while not stop.is_set():
            try:
                await asyncio.to_thread(self._write_report)
                self._servers.back("valkey")
            except RedisError as error:
                self._servers.away("valkey", error)
            await wait(stop, REPORT_S)
        with contextlib.suppress(RedisError):
            await asyncio.to_thread(self._store.listeners.remove, self.id)

    def _write_report(self) -> None:
        state = ListenerState(
            listener_id=self.id,
            nats="connected" if self._connected and not self._servers.is_away("jetstream") else "away",
            streams={name: check.state for name, check in self._streams.items()},
            consumers={name: check.state for name, check in self._durables.items()},
            relay="leader" if self._relay.leading else "standby",
            backlog=self._store.events.backlog(),
            at_ms=int(time.time() * 1000),
        )
        self._store.listeners.report(state)


async def until_signalled(listener: Listener) -> None:
    """Runs the listener until this process gets SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await listener.run(stop)


def _note(kind: str, name: str, known: dict[str, Check], found: Check) -> None:
    """Says so when something is not, or no longer, as it was found last."""
    if found != known[name]:
        known[name] = found
        tell = log.info if found.state == "ok" else log.warning
        tell(f"{kind}_{found.state}", name=name, detail=found.detail)


async def _keep(name: str, part: Callable[[], Awaitable[None]], over: asyncio.Event) -> None:
    """Runs a part of the listener until `over` is set: one that fails does not take the others with it."""
    while not over.is_set():
        try:
            await part()
        except NATS_ERRORS as error:
            log.debug("listener_part_interrupted", part=name, reason=str(error))
            await wait(over, 0.5)
        except Exception:
            log.exception("listener_part_failed", part=name)
            await wait(over, WATCH_S)


async def _watch_connection(client: Client, stop: asyncio.Event, over: asyncio.Event) -> None:
    """Sets `over` when the connection is lost or `stop` is set.

    It looks by itself: when nats-py fails to send what is left on a lost connection, it does not call its closed_cb.
    """
    while not client.is_closed and not await wait(stop, LOOK_S):
        pass
    over.set()


async def _close(client: Client) -> None:
    with contextlib.suppress(*NATS_ERRORS):
        async with asyncio.timeout(CLOSE_S):
            if client.is_connected:
                await client.flush(2)
            await client.close()
