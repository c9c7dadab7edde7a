"""The relay: publishes the event log to NATS, each event once and in the log's order.

One listener leads at a time, by a lease in ValKey. Every event carries its own id as Nats-Msg-Id, so what is sent again
after a crash, or by two leaders that overlap, is dropped by the stream: both send the same events in the same order,
and the first of each wins. The cursor moves only after all events of a batch are acknowledged.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import structlog
from nats.aio.client import Client
from nats.js.api import Header
from nats.js.errors import APIError
from redis.exceptions import RedisError

from fleet.bus.servers import NATS_ERRORS, Servers, delay_s, wait
from fleet.bus.streams import IN_FORMAT, stream_of
from fleet.bus.tokens import TokenRelay
from fleet.store import LoggedEvent, Store

log = structlog.get_logger(__name__)

LEASE_S = 6.0
BATCH = 200
READ_MS = 1000
PUBLISH_TIMEOUT_S = 5.0
EVENT_ID = "Fleet-Event-Id"
TOO_LARGE_FOR_STREAM = 10054  # the server's error code: the stream has a max_msg_size
HEADER_BYTES = 1024  # more than the headers of one event take; they count towards NATS's limit


class Relay:
    """One listener's relay. `holder` names it in the lease and is never used twice."""

    def __init__(self, store: Store, servers: Servers, holder: str):
        self._log, self._dead_letters = store.events, store.dead_letters
        self._servers, self._holder = servers, holder
        self._tokens = TokenRelay(store)
        self.leading = False

    async def run(self, client: Client, over: asyncio.Event) -> None:
        """Leads whenever nobody else does, until `over` is set; then gives the lease back."""
        while not over.is_set():
            try:
                if await self._take_lease():
                    self._servers.back("valkey")
                    await self._lead(client, over)
            except (RedisError, TimeoutError) as error:
                self._servers.away("valkey", error)
            await wait(over, delay_s(1, first=LEASE_S / 3))

    async def _take_lease(self) -> bool:
        """Takes or renews the lease. Raises: TimeoutError when ValKey takes so long that the lease may be over."""
        async with asyncio.timeout(LEASE_S / 2):
            return await asyncio.to_thread(self._log.lease, self._holder, int(LEASE_S * 1000))

    async def _lead(self, client: Client, over: asyncio.Event) -> None:
        self.leading = True
        log.info("relay_leads", holder=self._holder)
        work = (self._renew(), self._publish_log(client), self._tokens.run(client), over.wait())
        parts = [asyncio.create_task(part) for part in work]
        try:
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()
        finally:
            self.leading = False
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            with contextlib.suppress(RedisError):
                await asyncio.to_thread(self._log.release, self._holder)
            log.info("relay_stands_by", holder=self._holder)

    async def _renew(self) -> None:
        """Returns when the lease is lost."""
        while await self._take_lease():
            await asyncio.sleep(LEASE_S / 3)

    async def _publish_log(self, client: Client) -> None:
        """Publishes from the cursor on; returns when the lease or the connection is lost."""
        publisher = Publisher(client, await asyncio.to_thread(self._log.instance), self._bury)
        cursor = await asyncio.to_thread(self._log.cursor)
        failures = 0
        while not client.is_closed:
            events = await asyncio.to_thread(self._log.read, cursor, BATCH, READ_MS)
            if not events:
                continue
            try:
                await publisher.publish(events)
            except NATS_ERRORS as error:
                failures += 1
                if failures == 1:
                    log.warning("relay_waits_for_nats", after=cursor, reason=f"{type(error).__name__}: {error}")
                await asyncio.sleep(delay_s(failures, cap=5.0))
                continue
            if not await asyncio.to_thread(self._log.advance, self._holder, events[-1].id):
                return
            cursor, failures = events[-1].id, 0
            log.debug("events_relayed", count=len(events), cursor=cursor)

    async def _bury(self, event: LoggedEvent, reason: str) -> None:
        """Keeps an event that NATS will never take. Of a dead letter's own event the dead letter is kept already."""
        log.error("event_not_publishable", event_id=event.id, subject=event.subject, reason=reason)
        if not event.subject.startswith("deadletter."):
            reason = f"{event.subject}: {reason}"
            await asyncio.to_thread(self._dead_letters.add, "relay", reason, event.payload)


class Publisher:
    """Publishes batches of the log in order. Safe to repeat: what a stream has already, it drops by its Nats-Msg-Id."""

    def __init__(self, client: Client, instance: str, bury: Callable[[LoggedEvent, str], Awaitable[None]]):
        self._client, self._js = client, client.jetstream()
        self._instance, self._bury = instance, bury

    async def publish(self, events: Sequence[LoggedEvent]) -> None:
        """Returns when every event is in its stream or buried.

        Raises: nats.errors.Error or OSError when one is not; the batch is then to be published again.
        """
        publishable = []
        for event in events:
            if reason := self._obstacle(event):
                await self._bury(event, reason)
            else:
                publishable.append(event)
        if not await self._together(publishable):
            await self._one_by_one(publishable)

    def _obstacle(self, event: LoggedEvent) -> str:
        """Why NATS would never take the event, "" if it would."""
        if stream_of(event.subject) is None:
            return "no stream has this subject"
        if len(event.payload.encode()) + HEADER_BYTES > self._client.max_payload:
            return f"larger than the {self._client.max_payload} bytes that NATS takes"
        return ""

    async def _together(self, events: Sequence[LoggedEvent]) -> bool:
        """Sends all before the first is acknowledged; False when one was refused.

        Each names the one before it in its stream, so a stream that refuses one refuses the rest: none overtakes it.
        """
        before: dict[str | None, str] = {}
        sent = []
        for event in events:
            headers, stream = self._headers(event), stream_of(event.subject)
            if stream in before:
                headers[Header.EXPECTED_LAST_MSG_ID] = before[stream]
            before[stream] = headers[Header.MSG_ID]
            sent.append(self._send(event, headers))
        answers = await asyncio.gather(*sent, return_exceptions=True)
        return not any(isinstance(answer, BaseException) for answer in answers)

    async def _one_by_one(self, events: Sequence[LoggedEvent]) -> None:
        """In order without naming the one before: for streams that others publish to as well."""
        for event in events:
            try:
                await self._send(event, self._headers(event))
            except APIError as error:
                if error.err_code != TOO_LARGE_FOR_STREAM:
                    raise
                await self._bury(event, error.description or str(error))

    async def _send(self, event: LoggedEvent, headers: dict[str, str]) -> None:
        await self._js.publish(event.subject, event.payload.encode(), timeout=PUBLISH_TIMEOUT_S, headers=headers)

    def _headers(self, event: LoggedEvent) -> dict[str, str]:
        return {Header.MSG_ID: f"{self._instance}:{event.id}", EVENT_ID: event.id, **IN_FORMAT}
