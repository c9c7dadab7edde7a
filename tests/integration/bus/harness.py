"""What the tests of the bus share: a listener in a thread or a process, and a second client of NATS."""

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo, RawStreamMsg, StreamConfig, StreamInfo
from nats.js.errors import NotFoundError

from fleet.bus.consumers import consumers
from fleet.bus.listener import Listener
from fleet.models import PlanReceipt, PlanRequest, StoredPlan, StoryTransition, Task
from fleet.store import Store
from fleet.store.base import connect
from tests.harness import NatsServer, Process, ValkeyServer

T = TypeVar("T")

PLANS = "orch-planning-plan-approved"
TRANSITIONS = "orch-planning-story-transitions"


def plan_event(plan_id: str, **fields: Any) -> bytes:
    plan = {"plan_id": plan_id, "story_id": "s-1", "approved_by": "po", "timestamp": "2025-11-21T10:00:00Z"}
    return json.dumps({**plan, "roles": ["DEV"], **fields}).encode()


def transition_event(story_id: str, to_phase: str = "BUILD") -> bytes:
    transition = {"story_id": story_id, "from_phase": "DESIGN", "to_phase": to_phase}
    return json.dumps({**transition, "timestamp": "2025-11-21T10:00:00Z"}).encode()


class Loop:
    """An event loop in a thread, for tests that are not async."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, work: Awaitable[T]) -> "Future[T]":
        async def run() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop)

    def call(self, work: Awaitable[T]) -> T:
        return self.start(work).result(30)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


class Outside:
    """Another system on the same NATS: publishes events, and looks at streams and consumers."""

    def __init__(self, server: NatsServer):
        self._loop, self._server = Loop(), server
        self._client: Client = self._loop.call(self._connect())
        self._js: JetStreamContext = self._client.jetstream()

    async def _connect(self) -> Client:
        async def ignore(_: Exception) -> None: ...

        return await nats.connect(
            self._server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=ignore
        )

    def publish(self, subject: str, *payloads: bytes) -> None:
        """Returns when every event is stored."""

        async def all_of_them() -> None:
            acks = [await self._js.publish_async(subject, payload) for payload in payloads]
            await asyncio.gather(*acks)

        self._loop.call(all_of_them())

    def relayed(self, stream: str) -> list[str]:
        """The ids of the log's events in a stream, in the stream's order; "" for one from elsewhere."""
        return [(message.headers or {}).get("Fleet-Event-Id", "") for message in self.messages(stream)]

    def add_stream(self, config: StreamConfig) -> None:
        self._loop.call(self._js.add_stream(config))

    def stream(self, name: str) -> StreamInfo | None:
        try:
            return self._loop.call(self._js.stream_info(name))
        except (NotFoundError, TimeoutError):
            return None

    def delete_consumer(self, durable: str) -> None:
        self._loop.call(self._js.delete_consumer("PLANNING_EVENTS", durable))

    def consumer(self, durable: str) -> ConsumerInfo | None:
        try:
            return self._loop.call(self._js.consumer_info("PLANNING_EVENTS", durable))
        except (NotFoundError, TimeoutError):
            return None

    def settled(self, durable: str, count: int, last: int | None = None) -> bool:
        """True when the stream has `count` events and the durable's own, up to place `last`, are acknowledged.

        That none is pending is true before the durable hears of an event, too.
        """
        info = self.consumer(durable)
        stream = self.stream("PLANNING_EVENTS")
        return (
            info is not None
            and stream is not None
            and stream.state.messages == count
            and (info.num_pending, info.num_ack_pending) == (0, 0)
            and info.ack_floor is not None
            and info.ack_floor.stream_seq == (last or count)
        )

    def messages(self, stream: str) -> list[RawStreamMsg]:
        """All that the stream keeps, the oldest first."""
        info = self.stream(stream)
        if info is None or not info.state.messages:
            return []

        async def read(first: int, last: int) -> list[RawStreamMsg]:
            found: list[RawStreamMsg] = []
            for start in range(first, last + 1, 200):
                batch = range(start, min(start + 200, last + 1))
                found += await asyncio.gather(*(self._js.get_msg(stream, number) for number in batch))
            return found

        return self._loop.call(read(info.state.first_seq, info.state.last_seq))

    def close(self) -> None:
        self._loop.call(self._client.close())
        self._loop.close()


def store_plan(store: Store, plan: PlanRequest) -> tuple[StoredPlan, bool]:
    """Keeps the plan durably with a deliberation per role, as the dispatcher does before it enqueues them."""
    tasks = [
        Task(
            deliberation_id=f"{plan.plan_id}-{role}",
            role=role,
            task_id=f"{plan.plan_id}.{role}",
            task_description="x",
            agents=("agent-dev-001",),
            timeout_ms=1000,
            created_at_ms=1,
        )
        for role in plan.roles
    ]
    stored = StoredPlan(plan=plan, receipt=PlanReceipt(plan_id=plan.plan_id, deliberations=()), created_at_ms=1)
    return store.submissions.add_plan(stored, tasks)


@dataclass
class Running:
    """A listener in a thread of this process, with the plans and transitions it handled."""

    store: Store
    nats_url: str
    submit: Callable[[PlanRequest], object] | None = None
    record: Callable[[StoryTransition], object] | None = None
    ack_wait_s: float = 30.0
    transitions: list[StoryTransition] = field(default_factory=list)
    submissions: list[tuple[str, bool]] = field(default_factory=list)

    def __enter__(self) -> "Running":
        self._loop = Loop()
        work = consumers(self.submit or self._submit, self.record or self.transitions.append)
        self._listener = Listener(
            self.nats_url, self.store, tuple(replace(consumer, ack_wait_s=self.ack_wait_s) for consumer in work)
        )
        self._stop = asyncio.Event()
        self.done = self._loop.start(self._listener.run(self._stop))
        return self

    def _submit(self, plan: PlanRequest) -> None:
        _, created = store_plan(self.store, plan)
        self.submissions.append((plan.plan_id, created))

    def stop(self) -> None:
        self._loop._loop.call_soon_threadsafe(self._stop.set)
        self.done.result(60)

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.close()


def listener_process(folder: Path, valkey: ValkeyServer, server: NatsServer, **env: str) -> Process:
    """A listener as a process of its own, to be killed; see `program.py` for what `env` can ask for."""
    settings = {"FLEET_VALKEY_URL": valkey.url, "FLEET_NATS_URL": server.url, "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "tests.integration.bus.program"]
    return Process(command, folder / f"listener-{len(list(folder.iterdir()))}.log", env={**settings, **env})


@contextlib.contextmanager
def store_of(valkey: ValkeyServer) -> Iterator[Store]:
    store = Store(connect(valkey.url))
    yield store
    store.close()
