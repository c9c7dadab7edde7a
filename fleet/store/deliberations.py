"""Live deliberations: their state machine in Lua, their answers and their frozen decision.

A deliberation goes through steps ("propose:0", "review:1", "revise:1", "vote:1", …, "record"). A step is open until
it is sealed; then the next is entered. Each method is one Lua call, safe to repeat and to race: only one caller changes
the state, and the event goes into the log in that same call.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import redis

from fleet.errors import NotFound
from fleet.events import FINAL, Event
from fleet.models import Answer, Death, Decision, Deliberation, Status, Task
from fleet.store import base
from fleet.store.base import (
    Scripts,
    answers_key,
    attempts_key,
    deliberation_key,
    events_key,
    unstarted_key,
    watermark_key,
)
from fleet.store.eventlog import EventLog, flatten

GRAPH_RETRY_MS = 5_000  # until a decision that waits for Neo4j is due again
RECORD = "record"
_LONGEST_BLOCK_MS = 5_000
_DEAD_AFTER_MS = 6_000  # half of the lease after which the broker hands a message to somebody else


@dataclass(frozen=True, slots=True)
class PartStart:
    """Whether an agent's part is to run ("run"), was in more `deaths` than the caller knew of ("suspect"), is to be
    given up for them ("exhausted") or is not wanted ("unwanted").

    `sets_deadline` for the first part of a step, and for one that was started before and may have died since.
    """

    verdict: str
    task: Task | None = None
    deadline_s: float = 0.0
    remaining_s: float = 0.0
    sets_deadline: bool = False
    deaths: int = 0
    history: tuple[Death, ...] = ()


class CouncilStart(NamedTuple):
    """Whether a task of the council is to run ("run"), was in more `deaths` than the caller knew of ("suspect"), has to
    leave it to another one after which it is due again ("busy"), died too often ("exhausted") or is too late ("over").
    """

    verdict: str
    deaths: int
    history: tuple[Death, ...]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A step that takes no more answers: the time left for the next ones, the server's time, when the clock started."""

    budget_ms: int
    now_ms: int
    started_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Where:
    """Where a deliberation stands; `sealed` when its step takes no more answers, `recorded` when the graph has it."""

    status: Status
    step: str
    sealed: bool
    recorded: bool

    def wants(self, part: "Part") -> bool:
        """Whether the part's answer would still be taken."""
        return not self.status.final and self.step == part.step and not self.sealed


@dataclass(frozen=True, slots=True)
class Part:
    """One agent's part of one step; `id` is the id of its Celery task."""

    deliberation_id: str
    step: str
    agent_id: str

    @property
    def id(self) -> str:
        return f"{self.deliberation_id}.{self.step}.{self.agent_id}"

    @classmethod
    def parse(cls, id: str) -> "Part":
        return cls(*id.split(".", 2))

    @classmethod
    def of_council(cls, deliberation_id: str) -> "Part":
        """What the council does for a deliberation, in whichever step: its attempts are kept beside the agents'."""
        return cls(deliberation_id, "council", "*")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a part by one worker; the part may have others at the same time.

    The id says where it runs ("agents@host/4711/…"), so that a death can be told by it.
    """

    part: Part
    id: str

    @classmethod
    def here(cls, part: Part, worker: str | None, token: str) -> "Attempt":
        """An attempt in this process, which is one of the worker's."""
        return cls(part, f"{worker or 'unknown'}/{os.getpid()}/{token}")


class Deliberations:
    """The live deliberations in ValKey. Raises redis.exceptions.ConnectionError when it is away."""

    def __init__(self, client: "redis.Redis", scripts: Scripts, events: EventLog, retention_s: int):
        self._client, self._scripts, self._events, self._retention_s = client, scripts, events, retention_s

    def open_step(
        self, task: Task, step: str, agents: Sequence[str], queue: str, lane: str, events: Sequence[Event] = ()
    ) -> list[str]:
        """Registers the step's parts as dispatched; returns the agents whose parts have no answer yet.

        Empty when the step is not open any more. `lane` is the list of `queue` that they wait in. `events` are logged
        the first time only.
        """
        id = task.deliberation_id
        keys = [deliberation_key(id), answers_key(id), unstarted_key(lane), base.EVENTS, base.QUEUES]
        args = [id, step, queue, task.model or "", len(agents), *agents, *flatten(events)]
        missing: list[str] = self._scripts.run("open_step", keys, args)
        return missing

    def settle(self, id: str, step: str | None = None) -> None:
        """What was due is done. With `step`, because that one is open: not if it was left or cancelled meanwhile."""
        self._scripts.run("settle", [deliberation_key(id), base.DUE], [id, step or ""])

    def start_part(
        self, attempt: Attempt, lane: str, most_deaths: int, started: Event, *, deaths: int = 0
    ) -> PartStart:
        """Asks whether a part is still wanted. The first start of all logs `started` and starts the clock.

        An attempt that was not renewed for 6 s has died. `deaths` is how many the caller knows that the part was in.
        """
        part = attempt.part
        id = part.deliberation_id
        keys = [deliberation_key(id), answers_key(id), attempts_key(id), unstarted_key(lane), watermark_key(lane)]
        args = [id, part.step, part.agent_id, attempt.id, most_deaths, deaths, _DEAD_AFTER_MS]
        verdict, *rest = self._scripts.run(
            "start_part", [*keys, base.EVENTS], [*args, started.subject, started.payload()]
        )
        if verdict == "unwanted":
            return PartStart(verdict)
        task, deadline_ms, remaining_ms, sets, found, history = rest
        return PartStart(
            verdict,
            Task.read(task),
            deadline_ms / 1000,
            remaining_ms / 1000,
            bool(sets),
            found,
            _deaths(history),
        )

    def start_council(self, attempt: Attempt, most_deaths: int, *, deaths: int = 0) -> CouncilStart:
        """Asks whether a task of the council may work on a deliberation. `deaths` is how many the caller knows of.

        Its attempt is renewed and given back as a part's is; its deaths are counted until the step is left.
        """
        id = attempt.part.deliberation_id
        keys = [deliberation_key(id), attempts_key(id), base.DUE]
        args = [id, attempt.id, most_deaths, deaths, _DEAD_AFTER_MS]
        verdict, found, history = self._scripts.run("start_council", keys, args)
        return CouncilStart(verdict, found, _deaths(history))

    def renew(self, attempts: Sequence[Attempt], leaving: bool = False) -> set[Attempt]:
        """Says that these attempts run, or that their worker is about to end; returns those nobody wants any more."""
        with self._client.pipeline(transaction=False) as pipeline:
            for attempt in attempts:
                part = attempt.part
                keys = [deliberation_key(part.deliberation_id), attempts_key(part.deliberation_id)]
                args = [part.step, part.agent_id, attempt.id, int(leaving)]
                self._scripts.run("renew_attempt", keys, args, pipeline)
            return {attempt for attempt, unwanted in zip(attempts, pipeline.execute(), strict=True) if unwanted}

    def give_back(self, attempt: Attempt, *, died: bool) -> None:
        """The attempt ended without an answer; `died` when it took with it what ran it."""
        part = attempt.part
        keys = [attempts_key(part.deliberation_id)]
        self._scripts.run("end_attempt", keys, [part.step, part.agent_id, attempt.id, int(died)])

    def record_answer(self, part: Part, answer: Answer, events: Sequence[Event] = ()) -> bool:
        """Keeps a part's first answer while its step is open, and logs `events` with it; False if it came too late."""
        id = part.deliberation_id
        counts = int(answer.ok and part.step.startswith("propose:"))
        args = [id, part.step, part.agent_id, answer.kept(), counts, *flatten(events)]
        return bool(self._scripts.run("record_answer", [deliberation_key(id), answers_key(id), base.EVENTS], args))

    def seal_step(self, id: str, step: str) -> Sealed | None:
        """Closes a step to late answers; None when the deliberation has left it."""
        done, *rest = self._scripts.run("seal_step", [deliberation_key(id), base.DUE], [id, step])
        return Sealed(rest[0], rest[1], rest[2] or None) if done else None

    def enter_step(self, id: str, come_from: str, step: str, event: Event, decision: Decision | None = None) -> bool:
        """Moves from a sealed step to the next; with `decision`, freezes it. False if somebody else did it first."""
        keys = [deliberation_key(id), base.DUE, base.EVENTS, attempts_key(id)]
        args = [id, come_from, step, decision.kept() if decision else "", event.subject, event.payload()]
        return bool(self._scripts.run("enter_step", keys, args))

    def finish(self, decision: Decision, events: Sequence[Event]) -> bool:
        """Makes a recorded decision final; False if one was already. What is live is forgotten after the retention.

        `decision` is the frozen one, or the one that the graph had already, which then takes its place.
        """
        id = decision.deliberation_id
        own = [deliberation_key(id), answers_key(id), attempts_key(id), events_key(id)]
        args = [id, decision.status, self._retention_s, decision.kept(), *flatten(events)]
        return bool(self._scripts.run("finish", [*own, base.DUE, base.FINISHED, base.EVENTS], args))

    def cancel(self, decision: Decision, step: str, answers: int, event: Event) -> bool:
        """Makes a deliberation that is in `step` CANCELLED; False when more has happened than `decision` knows.

        `decision` says why, and was made with that many answers; it has yet to be recorded, and is due until then.
        """
        id, started = decision.deliberation_id, decision.started_at_ms or ""
        keys = [deliberation_key(id), answers_key(id), base.DUE, base.FINISHED, base.EVENTS]
        args = [id, step, decision.kept(), started, answers, event.subject, event.payload()]
        return bool(self._scripts.run("cancel", keys, args))

    def answers(self, id: str) -> dict[str, dict[str, Answer]]:
        """Every answer so far, by step and then by agent."""
        steps: dict[str, dict[str, Answer]] = {}
        found: Any = self._client.hgetall(answers_key(id))
        for part, document in found.items():
            step, agent = part.split(".", 1)
            steps.setdefault(step, {})[agent] = Answer.read(document)
        return steps

    def task(self, id: str) -> Task:
        """What the deliberation is about. Raises: NotFound."""
        document, created_at_ms = cast(list[Any], self._client.hmget(deliberation_key(id), "task", "created_at_ms"))
        if not document:
            raise NotFound("deliberation", id)
        return _task(document, created_at_ms)

    def decision(self, id: str) -> Decision | None:
        """The frozen decision, None before there is one."""
        document: Any = self._client.hget(deliberation_key(id), "decision")
        return Decision.read(document) if document else None

    def where(self, id: str) -> Where | None:
        """Where the deliberation stands, None for an unknown id."""
        fields: Any = self._client.hmget(deliberation_key(id), "status", "step", "sealed", "recorded")
        status, step, sealed, recorded = fields
        return Where(Status(status), step, sealed == "1", recorded == "1") if status else None

    def get(self, id: str) -> Deliberation | None:
        """The deliberation as people see it, None for an unknown id or one finished longer ago than the retention."""
        fields: Any = self._client.hgetall(deliberation_key(id))
        return stored_view(fields) if fields else None

    def wait(self, id: str, timeout_s: float) -> Deliberation | None:
        """The deliberation, as soon as it is final or after `timeout_s` seconds."""
        deadline, after = time.monotonic() + timeout_s, self._events.newest_id(id)
        where = self.where(id)
        final = where is None or where.status.final
        while not final and (left_ms := int((deadline - time.monotonic()) * 1000)) > 0:
            happened = self._events.read(after, block_ms=min(left_ms, _LONGEST_BLOCK_MS), deliberation_id=id)
            final = any(event.subject in FINAL for event in happened)
            after = happened[-1].id if happened else after
        return self.get(id)

    def now_ms(self) -> int:
        """The time that all deadlines go by."""
        return base.now_ms(self._client)

    def take_due(self, lease_ms: int = 30_000, most: int = 100, one_of: str = "") -> list[str]:
        """Deliberations somebody has to advance, handed out with a lease.

        Only one of those in the step `one_of`; the others are due again in `GRAPH_RETRY_MS`.
        """
        ids: list[str] = self._scripts.run("take_due", [base.DUE], [lease_ms, most, one_of, GRAPH_RETRY_MS])
        return ids

    def due_at(self, id: str, in_ms: int) -> None:
        """The deliberation is to be advanced again in `in_ms` milliseconds at the latest."""
        self._scripts.run("set_due", [base.DUE], [id, in_ms])

    def take_lost(self, lane: str, age_ms: int = 30_000, most: int = 100) -> list[Part]:
        """Parts whose message is neither in the lane nor with a worker, and which never started."""
        keys = [unstarted_key(lane), watermark_key(lane), lane, base.UNACKED]
        return [Part.parse(id) for id in self._scripts.run("take_lost", keys, [age_ms, most])]

    def forget_part(self, part: Part, lane: str) -> None:
        """The part is not wanted any more: stop looking for its message."""
        self._client.zrem(unstarted_key(lane), part.id)

    def forget_finished(self) -> int:
        """Drops what was finished longer ago than the retention from the indexes; returns how many."""
        before, forgotten = self.now_ms() - self._retention_s * 1000, 0
        while ids := cast(list[str], self._client.zrangebyscore(base.FINISHED, "-inf", before, start=0, num=1000)):
            with self._client.pipeline() as pipeline:
                pipeline.zrem(base.DELIBERATIONS, *ids)
                pipeline.zrem(base.FINISHED, *ids)
                pipeline.execute()
            forgotten += len(ids)
        return forgotten


def _deaths(document: str) -> tuple[Death, ...]:
    """From the scripts' JSON, in which an empty list is an object."""
    return tuple(_death(number, **one) for number, one in enumerate(json.loads(document) or (), 1))


def _death(number: int, attempt: str, at_ms: int) -> Death:
    worker, pid, _ = attempt.rsplit("/", 2) if attempt.count("/") >= 2 else ("unknown", "0", "")
    return Death(attempt=number, worker=worker, pid=int(pid), at_ms=at_ms)


def _task(document: str, created_at_ms: str) -> Task:
    """The task, accepted when ValKey says so: whoever handed it in may have another clock."""
    return Task.read(document).model_copy(update={"created_at_ms": int(created_at_ms)})


def stored_view(fields: Mapping[str, str]) -> Deliberation:
    """The deliberation that a hash in ValKey holds."""
    task = _task(fields["task"], fields["created_at_ms"])
    status = Status(fields["status"])
    live = {name: int(fields[name]) for name in ("started_at_ms", "finished_at_ms") if name in fields}
    if not status.final:
        return Deliberation.of(task, status, None, step=fields["step"], current_count=int(fields["count"]), **live)
    return Deliberation.of(task, status, Decision.read(fields["decision"]), current_count=int(fields["count"]), **live)
