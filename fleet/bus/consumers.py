"""The durable consumers: what is done with each event, and when it is acknowledged.

An event is acknowledged after its work is durable. What can heal (ValKey, the broker or Neo4j away, no room for more
deliberations) is delivered again after a growing delay, for ever, and little is fetched until then; what can never
succeed becomes a dead letter with its reason; what fails for no known reason is tried five times first.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from fleet.bus.commits import Commits
from fleet.bus.servers import HEALS, NATS_ERRORS, Servers, delay_s, server_of, wait
from fleet.bus.streams import Check, differences
from fleet.decode import as_text, decode_plan, decode_transition
from fleet.errors import Conflict, InvalidRequest, NotAccepted
from fleet.events import PLAN_APPROVED, STORY_TRANSITIONED
from fleet.models import DeadLetter, PlanRequest, StoryTransition
from fleet.store import Store

log = structlog.get_logger(__name__)

HOPELESS = (InvalidRequest, Conflict)
POSTPONED = (*HEALS, NotAccepted)
MOST_ATTEMPTS = 5
REASON_CHARS = 2_000
FETCH_S = 1.0  # also the longest that a stop waits for a fetch
ACK_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Consumer:
    """A durable consumer. `process` does an event's work in a thread and returns the ids it was about."""

    durable: str
    stream: str
    subject: str
    server: str
    process: Callable[[bytes], dict[str, str]]
    width: int = 8
    ack_wait_s: float = 30.0

    def config(self) -> ConsumerConfig:
        return ConsumerConfig(
            name=self.durable,
            durable_name=self.durable,
            filter_subject=self.subject,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self.ack_wait_s,
            max_deliver=-1,  # a limit loses an event whose consumer dies on the last delivery
            max_ack_pending=1000,
        )


def consumers(
    submit_plan: Callable[[PlanRequest], object], record_transition: Callable[[StoryTransition], object]
) -> tuple[Consumer, ...]:
    """The consumers of planning events; the two callables do the work, durably, and may block."""

    def plan_approved(data: bytes) -> dict[str, str]:
        plan = decode_plan(data)
        submit_plan(plan)
        return {"plan_id": plan.plan_id, "story_id": plan.story_id}

    def story_transitioned(data: bytes) -> dict[str, str]:
        transition = decode_transition(data)
        record_transition(transition)
        return {"story_id": transition.story_id}

    stream = "PLANNING_EVENTS"
    return (
        Consumer("orch-planning-plan-approved", stream, PLAN_APPROVED, "valkey", plan_approved),
        Consumer("orch-planning-story-transitions", stream, STORY_TRANSITIONED, "neo4j", story_transitioned),
    )


async def ensure_consumer(js: JetStreamContext, consumer: Consumer) -> Check:
    """Creates the durable when it is missing. One that is there with another configuration is left as it is.

    Safe to race. Raises: nats.errors.Error or OSError when NATS does not answer.
    """
    wanted = consumer.config()
    try:
        found = (await js.consumer_info(consumer.stream, consumer.durable)).config
    except NotFoundError:
        try:
            found = (await js.add_consumer(consumer.stream, wanted)).config
        except APIError as error:  # most likely its stream is missing
            return Check("missing", error.description or str(error))
    fields = ("filter_subject", "deliver_policy", "ack_policy", "ack_wait", "max_deliver", "max_ack_pending")
    return differences(wanted, found, fields)


class Inbox:
    """One listener's share of a durable: fetches in batches and works on `width` events at a time.

    It outlives connections: `run` is called once per connection, `drain` once at the end.
    """

    def __init__(self, consumer: Consumer, store: Store, servers: Servers):
        self.consumer = consumer
        self._store, self._servers = store, servers
        self._turn = asyncio.Semaphore(consumer.width)
        self._most_in_hand = 4 * consumer.width
        self._in_hand: dict[asyncio.Task[None], Msg] = {}
        self._room = asyncio.Event()
        self._failed_rounds, self._round_over_at = 0, 0.0
        self._refused = ""  # why no work is accepted, while none is
        self._commits = Commits(store.durability.confirm)
        self._draining = False

    async def run(self, js: JetStreamContext, over: asyncio.Event) -> None:
        """Fetches and handles events until `over` is set; what is in hand then goes on."""
        subscription = await js.pull_subscribe_bind(durable=self.consumer.durable, stream=self.consumer.stream)
        while not over.is_set():
            try:
                await self._pause(over)
                count = await self._free(over)
                if count and not over.is_set():
                    for message in await subscription.fetch(count, timeout=FETCH_S):
                        self._take(message)
            except TimeoutError:
                await wait(over, 0.02)  # nothing to do; some refusals look the same and come at once
            except NATS_ERRORS:
                await wait(over, FETCH_S)  # no such consumer yet, or the connection is lost

    async def drain(self, grace_s: float) -> None:
        """Hands back what was not begun, and lets the rest end within `grace_s` seconds."""
        self._draining = True
        if self._in_hand:
            await asyncio.wait(self._in_hand, timeout=grace_s)
        for task, message in list(self._in_hand.items()):
            task.cancel()
            await self._nak(message, 0)

    async def _pause(self, over: asyncio.Event) -> None:
        """While what the events need is away or full, they wait in the stream rather than going round."""
        if self._failed_rounds:
            await wait(over, delay_s(self._failed_rounds, first=0.25, cap=5.0))

    async def _free(self, over: asyncio.Event) -> int:
        """How many events to fetch: several at once, and one as a trial while things fail."""
        while len(self._in_hand) > self._most_in_hand // 2:
            self._room.clear()
            if over.is_set():
                return 0
            await wait(self._room, FETCH_S)
        return 1 if self._failed_rounds else self._most_in_hand - len(self._in_hand)

    def _take(self, message: Msg) -> None:
        task = asyncio.create_task(self._handle(message))
        self._in_hand[task] = message
        task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[None]) -> None:
        self._in_hand.pop(task, None)
        self._room.set()

    async def _handle(self, message: Msg) -> None:
        async with self._keeping(message):
            async with self._turn:
                ids = await self._work(message)
            if ids is not None and await self._durable(message):
                self._succeeded()
                await self._ack(message)
                log.info("event_processed", **self._about(message), **ids)

    async def _work(self, message: Msg) -> dict[str, str] | None:
        """Does the event's work; None when that failed and the event was seen to otherwise."""
        try:
            if not self._draining:
                return await asyncio.to_thread(self._process, message.data)
            await self._nak(message, 0)
        except HOPELESS as error:
            await self._bury(message, str(error))
        except POSTPONED as error:
            await self._postpone(message, error)
        except Exception as error:  # noqa: BLE001 - a bug must not stop the consumer, nor lose the event
            await self._try_again(message, error)
        return None

    def _process(self, data: bytes) -> dict[str, str]:
        if self._in_valkey:
            self._store.durability.check()
        return self.consumer.process(data)

    @property
    def _in_valkey(self) -> bool:
        """Whether the work is durable when ValKey says so."""
        return self.consumer.server == "valkey" and self._store.durability.wanted

    async def _durable(self, message: Msg) -> bool:
        """Waits until the event's work is on disk, where that is asked for; False when it will be done again."""
        try:
            if self._in_valkey:
                await self._commits.done()
        except POSTPONED as error:
            await self._postpone(message, error)
            return False
        return True

    @contextlib.asynccontextmanager
    async def _keeping(self, message: Msg) -> AsyncIterator[None]:
        """Tells NATS that the event is still being worked on, or waits for its turn."""

        async def tell() -> None:
            while True:
                await asyncio.sleep(self.consumer.ack_wait_s / 3)
                with contextlib.suppress(*NATS_ERRORS):
                    await message.in_progress()

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()

    async def _bury(self, message: Msg, reason: str, attempts: int = 1) -> None:
        try:
            letter = await asyncio.to_thread(self._keep_letter, message, reason, attempts)
        except POSTPONED as error:
            await self._postpone(message, error)
            return
        await self._ack(message)
        log.warning(
            "event_dead_lettered", **self._about(message), dead_letter_id=letter.dead_letter_id, reason=letter.reason
        )

    def _keep_letter(self, message: Msg, reason: str, attempts: int) -> DeadLetter:
        text = as_text(message.data)
        letter = self._store.dead_letters.add(self.consumer.subject, reason[:REASON_CHARS], text, attempts)
        self._store.durability.confirm()
        return letter

    async def _postpone(self, message: Msg, error: BaseException) -> None:
        if isinstance(error, NotAccepted):
            self._refuse(str(error))
        else:
            self._servers.away(server_of(error), error)
        self._failed()
        await self._nak(message, delay_s(message.metadata.num_delivered))

    async def _try_again(self, message: Msg, error: Exception) -> None:
        """Counts an attempt at an event that failed for no known reason; the last one makes it a dead letter."""
        about = self._about(message)
        log.error("event_failed", **about, exc_info=error)
        # The time is part of the id: a stream that was deleted and made again numbers its events anew.
        id = f"{about['stream']}:{about['sequence']}:{message.metadata.timestamp.timestamp():.6f}"
        try:
            attempts = await asyncio.to_thread(self._store.dead_letters.count_attempt, self.consumer.subject, id)
        except HEALS as away:
            await self._postpone(message, away)
            return
        if attempts >= MOST_ATTEMPTS:
            await self._bury(message, f"failed {attempts} times, last with {type(error).__name__}: {error}", attempts)
        else:
            await self._nak(message, delay_s(attempts))

    async def _ack(self, message: Msg) -> None:
        try:
            await message.ack_sync(timeout=ACK_TIMEOUT_S)
        except NATS_ERRORS as error:  # it comes again, and changes nothing then
            log.info("ack_lost", **self._about(message), reason=str(error))

    async def _nak(self, message: Msg, delay: float) -> None:
        with contextlib.suppress(*NATS_ERRORS):  # it comes again after the ack wait
            await message.nak(delay or None)

    def _about(self, message: Msg) -> dict[str, Any]:
        metadata = message.metadata
        return {
            "subject": message.subject,
            "stream": metadata.stream,
            "sequence": metadata.sequence.stream,
            "delivery": metadata.num_delivered,
        }

    def _failed(self) -> None:
        """Events that fail at the same time are one failed round."""
        now = asyncio.get_running_loop().time()
        if now >= self._round_over_at:
            self._failed_rounds += 1
            self._round_over_at = now + delay_s(self._failed_rounds, first=0.25, cap=5.0)

    def _refuse(self, reason: str) -> None:
        if not self._refused:
            log.warning("events_wait", consumer=self.consumer.durable, reason=reason)
        self._refused = reason

    def _succeeded(self) -> None:
        if self._refused:
            log.info("events_go_on", consumer=self.consumer.durable)
            self._refused = ""
        self._failed_rounds, self._round_over_at = 0, 0.0
        self._servers.back(self.consumer.server)
