"""Sees every event that leaves the fleet by NATS, live: the stream itself forgets the older ones."""

import asyncio
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

import nats
from nats.js.api import AckPolicy, ConsumerConfig

from fleet.events import FINAL

STREAM = "ORCHESTRATOR_EVENTS"
DURABLE = "chaos-witness"


@dataclass(frozen=True)
class Seen:
    """One message of the stream: its place there, its event's id in the log, and what it says."""

    place: int
    event_id: str
    subject: str
    step: str | None
    status: str | None
    at_s: float


class Witness:
    """A durable consumer in a thread of its own; `seen` has each message once, by deliberation."""

    def __init__(self, url: str):
        self._url, self._stop = url, threading.Event()
        self._places: set[int] = set()
        self.seen: dict[str, list[Seen]] = defaultdict(list)
        self.final: dict[str, float] = {}
        self.trouble: list[str] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(20)

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                await self._listen()
            except (nats.errors.Error, OSError):
                await asyncio.sleep(0.3)
            except Exception as error:  # noqa: BLE001 - what it did not see would look lost
                self.trouble.append(repr(error))
                await asyncio.sleep(0.3)

    async def _listen(self) -> None:
        client = await nats.connect(self._url, allow_reconnect=False, connect_timeout=2, max_reconnect_attempts=1,
                                    error_cb=_quiet)  # fmt: skip
        try:
            config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=5000, ack_wait=30)
            pull = await client.jetstream().pull_subscribe("orchestration.>", DURABLE, stream=STREAM, config=config)
            while not self._stop.is_set() and not client.is_closed:
                try:
                    messages = await pull.fetch(500, timeout=1)
                except nats.errors.TimeoutError:
                    continue
                for message in messages:
                    self._see(message.metadata.sequence.stream, message.subject, dict(message.headers or {}),
                              message.data)  # fmt: skip
                    await message.ack()
        finally:
            await client.close()

    def _see(self, place: int, subject: str, headers: dict[str, str], data: bytes) -> None:
        if place in self._places:
            return
        self._places.add(place)
        event = json.loads(data)
        id = event.get("deliberation_id", "")
        now_s = time.time()
        event_id = headers.get("Fleet-Event-Id", "")
        self.seen[id].append(Seen(place, event_id, subject, event.get("step"), event.get("status"), now_s))
        if subject in FINAL:
            self.final.setdefault(id, now_s)


async def _quiet(_: Exception) -> None: ...
