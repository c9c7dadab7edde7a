"""From a plan to deliberations and from a deliberation's step to a chord; the API, the listener and the tasks call it.

What is stored here is dispatched for certain: a process that dies in between leaves a deliberation that is due, and
the watchdog (`fleet.tasks.watchdog`) has it advanced. All ids derive from what was asked for, so doing it again
opens nothing twice.
"""

import contextlib
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

from celery import Celery, Signature
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from fleet import telemetry
from fleet.celery import app as celery_app
from fleet.cluster import GPU_QUEUE
from fleet.deliberation.steps import participants
from fleet.errors import NotFound, WrongState
from fleet.events import DeliberationFinished, TaskDispatched, about
from fleet.models import (
    Answer,
    Council,
    Decision,
    Deliberation,
    DeliberationRef,
    DeliberationRequest,
    PlanReceipt,
    PlanRequest,
    Role,
    Status,
    StoredPlan,
    Subtask,
    Task,
    agent_id,
    derive_id,
    digest,
)
from fleet.settings import Profile, Settings
from fleet.store import RECORD, Part, Store
from fleet.store.submissions import IDEMPOTENCY_S, SENT_AGAIN_S
from fleet.valkey.publishing import publish_together
from fleet.valkey.transport import list_key

ANSWER = "fleet.agent.answer"
CLOSE_STEP = "fleet.council.close_step"
ADVANCE = "fleet.council.advance"
COUNCIL_QUEUE = "council"
FIRST_STEP = "propose:0"
# Lower ones are taken first: what has begun is finished before something new begins.
NEW_WORK, BEGUN_WORK = 3, 0
_ABOUT = {"role", "task_id", "story_id", "plan_id"}


def queue_of(asked: Task | Deliberation, settings: Settings) -> str:
    """The queue that its agents' parts wait in, as it was when it was accepted."""
    return asked.queue or settings.agent_queue


def queue_for(model: str | None, settings: Settings) -> str:
    """The queue whose workers have the model, None being the default one."""
    if settings.agent_queue != GPU_QUEUE or model in (None, settings.gpu_model):
        return settings.agent_queue
    return f"{GPU_QUEUE}.{slug(model)}"


def slug(model: str) -> str:
    """A model's name as part of a queue's: Qwen/Qwen3-0.6B is qwen-qwen3-0.6b.

    Where that leaves out more than the case and the slash, a digest tells such names apart.
    """
    plain = re.sub(r"[^a-z0-9.]+", "-", model.lower()).strip("-.")
    return plain if plain == model.lower().replace("/", "-") else f"{plain}-{digest(model)[:6]}".lstrip("-")


def lane(queue: str, step: str) -> str:
    """The list in an agents' queue that a step's parts wait in, first in, first out."""
    return list_key(queue, _priority(step))


def lanes(queue: str) -> list[str]:
    return [list_key(queue, priority) for priority in (NEW_WORK, BEGUN_WORK)]


def _priority(step: str) -> int:
    return NEW_WORK if step == FIRST_STEP else BEGUN_WORK


class Dispatcher:
    """Accepts work and hands it to the workers; thread-safe.

    Its methods raise redis.exceptions.RedisError or kombu.exceptions.OperationalError when ValKey is away; what was
    accepted before that stays accepted.
    """

    def __init__(self, store: Store, settings: Settings, app: Celery = celery_app):
        self._app, self._store, self._settings = app, store, settings

    def submit_plan(self, plan: PlanRequest) -> tuple[StoredPlan, bool]:
        """Accepts a plan once; returns it as stored and whether it is new.

        Raises: Conflict when its id was used with other content.
        """
        now_ms = _now_ms()
        tasks = self._plan_tasks(plan, now_ms)
        receipt = PlanReceipt(plan_id=plan.plan_id, deliberations=tuple(map(_reference, tasks)), notes=_notes(plan))
        stored, created = self._store.submissions.add_plan(
            StoredPlan(plan=plan, receipt=receipt, created_at_ms=now_ms), tasks
        )
        if created:
            for task in tasks:
                self.open_step(task, FIRST_STEP, task.agents)
        return stored, created

    def submit_deliberation(self, request: DeliberationRequest, idempotency_key: str | None = None) -> tuple[str, bool]:
        """Accepts one deliberation; the same plan and task, else the same key, is the same deliberation.

        Returns its id and whether it is new.
        Raises: Conflict when the id or the key was used with other content.
        """
        task = self._request_task(request, idempotency_key)
        # Nobody can ask for a random id again.
        known_s = IDEMPOTENCY_S if request.plan_id or idempotency_key else SENT_AGAIN_S
        created = self._store.submissions.add_deliberation(task, request.digest(), known_s)
        if created:
            self.open_step(task, FIRST_STEP, task.agents)
        return task.deliberation_id, created

    def cancel(self, id: str) -> None:
        """Ends a deliberation that is not decided yet: what is queued will not run, what runs is given up.

        Raises: NotFound, or WrongState when it is decided or final.
        """
        store = self._store.deliberations
        while True:
            found = store.get(id)
            if found is None:
                raise NotFound("deliberation", id)
            if found.step is None or found.step == RECORD:
                raise WrongState("deliberation", id, found.status if found.status.final else "decided already")
            answers = [answer for given in store.answers(id).values() for answer in given.values()]
            decision = self._cancelled(found, answers)
            if store.cancel(decision, found.step, len(answers), DeliberationFinished.of(decision)):
                break
        with contextlib.suppress(RedisError, OperationalError):  # it is cancelled and due: the watchdog does the rest
            self.set_deadline(id, found.step, 0)  # its chord ends with what it has
            self._app.send_task(CLOSE_STEP, args=([], id, RECORD), queue=COUNCIL_QUEUE)

    def replay(self, task: Task, idempotency_key: str | None = None) -> str:
        """Accepts the task of a deliberation once more, as a new one; the same key makes one only. Returns its id."""
        old = task.deliberation_id
        id = derive_id("replay", old, idempotency_key) if idempotency_key else str(uuid.uuid4())
        task_id = id if task.task_id == old else task.task_id
        changes = {"deliberation_id": id, "task_id": task_id, "replay_of": old, "created_at_ms": _now_ms()}
        changes["queue"] = queue_for(task.model, self._settings)
        again = task.model_copy(update=changes)
        known_s = IDEMPOTENCY_S if idempotency_key else SENT_AGAIN_S
        if self._store.submissions.add_deliberation(again, digest(["replay", old]), known_s):
            self.open_step(again, FIRST_STEP, again.agents)
        return id

    def open_step(self, task: Task, step: str, agents: Sequence[str]) -> None:
        """Publishes a step's chord: one part per agent on the agents' queue, then `close_step` on the council's."""
        id, queue = task.deliberation_id, queue_of(task, self._settings)
        events = [_dispatched(task, agent) for agent in agents] if step == FIRST_STEP else []
        if self._store.deliberations.open_step(task, step, agents, queue, lane(queue, step), events):
            self._app.backend.open_chord(_group_id(id, step), self._close(id, step), len(agents))
            self._publish(task, step, list(enumerate(agents)))
        self._store.deliberations.settle(id, step)

    def publish_again(self, part: Part, place: str) -> None:
        """Publishes one part whose message was lost from the list `place`, as the same part of the same chord."""
        store = self._store.deliberations
        where = store.where(part.deliberation_id)
        if where is None or not where.wants(part):
            store.forget_part(part, place)
            return
        task = store.task(part.deliberation_id)
        agents = participants(task, part.step, store.answers(part.deliberation_id))
        self._publish(task, part.step, [(agents.index(part.agent_id), part.agent_id)])

    def set_deadline(self, id: str, step: str, deadline_s: float) -> None:
        """The step's chord closes with what has arrived at `deadline_s` (Unix time of ValKey's clock)."""
        self._app.backend.set_chord_deadline(_group_id(id, step), deadline_s)

    def council(self, role: Role) -> Council:
        """The council of a role; made with the configured size if there is none."""
        settings = self._settings
        return self._store.councils.get(role) or self._store.councils.ensure(
            Council.of(role, settings.agents_per_council, None, settings.engine)
        )

    def ensure_councils(self) -> None:
        """Makes the council of every role but those whose council was deleted, unless AUTO_INIT_COUNCILS is off."""
        if self._settings.auto_init_councils:
            deleted = self._store.councils.deleted()
            for role in Role:
                if role not in deleted:
                    self.council(role)

    def _plan_tasks(self, plan: PlanRequest, now_ms: int) -> list[Task]:
        subtasks = [subtask for subtask in plan.subtasks if subtask.role]
        if subtasks:
            return [self._plan_task(plan, subtask.role, subtask, now_ms) for subtask in subtasks if subtask.role]
        roles = plan.roles or [council.role for council in self._store.councils.list()] or list(Role)
        return [self._plan_task(plan, role, None, now_ms) for role in roles]

    def _plan_task(self, plan: PlanRequest, role: Role, subtask: Subtask | None, now_ms: int) -> Task:
        subtask_id = subtask.subtask_id if subtask else None
        request = DeliberationRequest.model_construct(  # its parts are valid; together they may be longer than one text
            task_description=_describe(plan, subtask),
            role=role,
            story_id=plan.story_id,
            plan_id=plan.plan_id,
            task_id=subtask_id or f"{plan.plan_id}.{role.lower()}"[:128],
            constraints=plan.constraints,
            rounds=plan.rounds,
            num_agents=plan.num_agents,
        )
        return self._task(request, derive_id(plan.story_id, plan.plan_id, role, subtask_id), now_ms)

    def _request_task(self, request: DeliberationRequest, idempotency_key: str | None) -> Task:
        if request.plan_id:
            id = derive_id(request.story_id, request.plan_id, request.role, request.task_id)
        elif idempotency_key:
            id = derive_id("Idempotency-Key", idempotency_key)
        else:
            id = str(uuid.uuid4())
        return self._task(request, id, _now_ms())

    def _task(self, request: DeliberationRequest, id: str, now_ms: int) -> Task:
        council, profile = self.council(request.role), self._settings.profiles.get(request.role, Profile())
        model = council.model or profile.model
        timeout_s = request.constraints.timeout_seconds or self._settings.deliberation_timeout_s
        return Task(
            deliberation_id=id,
            role=request.role,
            task_id=request.task_id or id,
            story_id=request.story_id,
            plan_id=request.plan_id,
            task_description=request.task_description,
            constraints=request.constraints,
            rounds=council.deliberation_rounds if request.rounds is None else request.rounds,
            agents=_agents(council, request.num_agents),
            timeout_ms=timeout_s * 1000,
            model=model,
            adapter=profile.adapter if model == profile.model else None,  # it fits no other model
            temperature=profile.temperature,
            max_tokens=profile.max_tokens,
            queue=queue_for(model, self._settings),
            strategy=request.strategy,
            created_at_ms=now_ms,
        )

    def _cancelled(self, found: Deliberation, answers: Sequence[Answer]) -> Decision:
        store = self._store.deliberations
        return Decision(
            deliberation_id=found.deliberation_id,
            task=store.task(found.deliberation_id),
            status=Status.CANCELLED,
            reason=f"cancelled in {found.step} with {found.current_count} of {found.expected_count} proposals",
            chosen_by="none",
            tokens=sum(one.prompt_tokens + one.completion_tokens for one in answers),
            started_at_ms=found.started_at_ms,
            decided_at_ms=store.now_ms(),
        )

    def _publish(self, task: Task, step: str, agents: Sequence[tuple[int, str]]) -> None:
        """Publishes parts of a step's chord, each by its place in the header and its agent."""
        id = task.deliberation_id
        close, about = self._close(id, step), task.model_dump(mode="json", include=_ABOUT)
        queue = queue_of(task, self._settings)

        def publish(producer: Any) -> None:
            for index, agent in agents:
                self._app.send_task(
                    ANSWER,
                    args=(id, step, agent),
                    kwargs={"about": about, "queue": queue},
                    argsrepr=f"{id}, {step}, {agent}",
                    kwargsrepr="{}",
                    task_id=Part(id, step, agent).id,
                    group_id=_group_id(id, step),
                    group_index=index,
                    chord=close,
                    queue=queue,
                    priority=_priority(step),
                    ignore_result=True,
                    add_to_parent=False,
                    producer=producer,
                )

        publish_together(self._app, publish)

    def _close(self, id: str, step: str) -> Signature:
        options: dict[str, Any] = {"task_id": f"{_group_id(id, step)}.close", "queue": COUNCIL_QUEUE}
        # Until the first part starts the only limit is the time in the queue; then the part sets the step's deadline.
        options |= {"chord_deadline": self._settings.queue_ttl_s, "chord_partial": True, "headers": telemetry.carried()}
        signature: Signature = self._app.signature(CLOSE_STEP, args=(id, step), options=options)
        return signature


def _group_id(id: str, step: str) -> str:
    return f"{id}.{step}"


def _now_ms() -> int:
    return int(time.time() * 1000)


def _reference(task: Task) -> DeliberationRef:
    return DeliberationRef(deliberation_id=task.deliberation_id, role=task.role, task_id=task.task_id)


def _notes(plan: PlanRequest) -> tuple[str, ...]:
    ordered = any(subtask.depends_on for subtask in plan.subtasks)
    return ("depends_on is stored, but not yet enforced: all deliberations start at once",) if ordered else ()


def _dispatched(task: Task, agent: str) -> TaskDispatched:
    return TaskDispatched(agent_id=agent, **about(task))


def _agents(council: Council, count: int | None) -> tuple[str, ...]:
    """The council's agents, the first `count` of them; more than it has are numbered on."""
    ids = [agent.agent_id for agent in council.agents]
    if count is None:
        return tuple(ids)
    more = (new for number in range(1, 1000) if (new := agent_id(council.role, number)) not in ids)
    return tuple((ids + [next(more) for _ in range(count - len(ids))])[:count])


def _describe(plan: PlanRequest, subtask: Subtask | None) -> str:
    """What the agents read: the plan, then the part of it that is theirs."""
    lines = [plan.title or f"Plan {plan.plan_id} of story {plan.story_id}", plan.description or ""]
    if subtask:
        lines += [f"Subtask: {subtask.title}", subtask.description or ""]
    return "\n".join(line for line in lines if line)
