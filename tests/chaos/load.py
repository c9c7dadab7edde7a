"""A steady load: plans by HTTP and by NATS, each handed in until somebody said that it is accepted."""

import asyncio
import itertools
import json
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import nats
from nats.aio.client import Client

from fleet.models import derive_id

ROLES = ("ARCHITECT", "DEV", "QA", "DEVOPS", "DATA")
TIMEOUT_S = 60  # of each deliberation
HANDS = 6  # submitters side by side
AGAIN_S = 0.3


@dataclass
class Handed:
    """A plan that was handed in: when that began, and when it was accepted, in Unix seconds."""

    plan: dict[str, Any]
    began_s: float
    accepted_s: float | None = None
    by: str = ""
    ids: list[str] = field(default_factory=list)


class Plans:
    """Makes plans by the seed: one or two roles, two or three agents, no or one round; three plans make a story."""

    def __init__(self, seed: int):
        self._random, self._seed, self._numbers = random.Random(seed), seed, itertools.count()

    def make(self) -> dict[str, Any]:
        number, pick = next(self._numbers), self._random
        roles = pick.sample(ROLES, pick.choice([1, 1, 2]))
        return {
            "plan_id": f"plan-{self._seed}-{number}",
            "story_id": f"story-{self._seed}-{number // 3}",
            "title": "Reset a password",
            "description": "Write the function.",
            "roles": roles,
            "approved_by": "po",
            "timestamp": "2026-01-01T00:00:00Z",
            "rounds": pick.choice([0, 0, 0, 1]),
            "num_agents": pick.choice([2, 3]),
            "constraints": {"timeout_seconds": TIMEOUT_S, "requirements": ["A token expires", "A token is used once"]},
        }


def ids_of(plan: dict[str, Any]) -> list[str]:
    return [derive_id(plan["story_id"], plan["plan_id"], role, None) for role in plan["roles"]]


class Load:
    """Hands plans in by several hands at once, and knows which were accepted."""

    def __init__(self, seed: int, apis: Callable[[], list[str]], key: str, nats_url: str):
        self._plans, self._random = Plans(seed), random.Random(seed + 1)
        self._apis, self._key = apis, key
        self._bus = Bus(nats_url)
        self._waiting: queue.Queue[Handed | None] = queue.Queue()
        self.handed: list[Handed] = []
        self.given_up = threading.Event()
        self.repeated = 0
        self.refusals: list[str] = []  # answers that tell of a fault in the fleet

    def run(self, wanted: int, rate: float, most: int, over: threading.Event, ended: Callable[[], int]) -> None:
        """`rate` plans a second, as long as not more than `most` deliberations wait for their end.

        Until `wanted` deliberations are handed in and `over` is set; then until all are accepted.
        """
        hands = [threading.Thread(target=self._hand_in, daemon=True) for _ in range(HANDS)]
        for hand in hands:
            hand.start()
        due, count = time.monotonic(), 0
        while (count < wanted or not over.is_set()) and not self.given_up.is_set():
            due = max(due + 1 / rate, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            if count - ended() > most:
                continue
            one = Handed(self._plans.make(), 0.0, by=self._random.choice(["http", "nats"]))
            one.ids = ids_of(one.plan)
            self.handed.append(one)
            count += len(one.ids)
            self._waiting.put(one)
        for _ in hands:
            self._waiting.put(None)
        for hand in hands:
            hand.join()

    @property
    def accepted(self) -> list[Handed]:
        return [one for one in self.handed if one.accepted_s]

    def repeat(self, pick: random.Random, *, reordered: bool) -> None:
        """Hands some of the latest plans in once more, by both ways; `reordered`: the newest first."""
        again = self.accepted[-20:]
        again = again[::-1] if reordered else pick.sample(again, min(len(again), 8))
        for one in again:
            self.repeated += 1
            self._publish(one.plan)
            self._post(one.plan)

    def close(self) -> None:
        self._bus.close()

    def _hand_in(self) -> None:
        while (one := self._waiting.get()) is not None:
            one.began_s = time.time()
            while not one.accepted_s and not self.given_up.is_set():
                if self._post(one.plan) if one.by == "http" else self._publish(one.plan):
                    one.accepted_s = time.time()
                else:
                    time.sleep(AGAIN_S)

    def _post(self, plan: dict[str, Any]) -> bool:
        """True when it is accepted."""
        headers = {"Authorization": f"Bearer {self._key}"}
        try:
            answer = httpx2.post(f"{random.choice(self._apis())}/v1/plans", json=plan, headers=headers, timeout=10)
        except (httpx2.TransportError, OSError, ValueError):
            return False
        if answer.status_code not in (200, 202, 429, 503):
            self.refusals.append(f"HTTP {answer.status_code}: {answer.text}")
        return answer.status_code in (200, 202)

    def _publish(self, plan: dict[str, Any]) -> bool:
        return self._bus.publish("planning.plan.approved", json.dumps(plan).encode())


class Bus:
    """Publishes to JetStream from any thread, over one connection that is replaced when it is lost."""

    def __init__(self, url: str):
        self._url, self._client = url, Client()
        self._loop = asyncio.new_event_loop()
        self._connecting = asyncio.Lock()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def publish(self, subject: str, data: bytes) -> bool:
        """True when the stream has it."""
        return asyncio.run_coroutine_threadsafe(self._publish(subject, data), self._loop).result(60)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _publish(self, subject: str, data: bytes) -> bool:
        try:
            async with asyncio.timeout(10):
                async with self._connecting:
                    if not self._client.is_connected:
                        self._client = await nats.connect(self._url, allow_reconnect=False, connect_timeout=2,
                                                          max_reconnect_attempts=1, error_cb=_quiet)  # fmt: skip
                await self._client.jetstream().publish(subject, data, timeout=5)
        except (nats.errors.Error, OSError):
            return False
        return True


async def _quiet(_: Exception) -> None: ...
