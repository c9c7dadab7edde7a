"""The callbacks of a deliberation: close a step, open the next, decide, write the decision to the graph."""

from collections.abc import Sequence
from typing import Any

import structlog
from celery import shared_task

from fleet import checks
from fleet.deliberation import selection, steps
from fleet.dispatch import ADVANCE, CLOSE_STEP
from fleet.errors import Conflict, Unavailable
from fleet.events import DecisionAdded, DeliberationFinished, DeliberationStepped, about
from fleet.models import Answer, Checks, Death, Decision, Status, Task
from fleet.store import GRAPH_RETRY_MS, RECORD, Attempt, Part, Sealed
from fleet.tasks.deaths import counted
from fleet.tasks.graph import graph, one_tries
from fleet.tasks.process import patient, runtime

log = structlog.get_logger(__name__)

DECIDING_ATTEMPTS = 3


@shared_task(name=CLOSE_STEP, ignore_result=True)  # type: ignore[untyped-decorator]
@patient
def close_step(parts: list[Any], deliberation_id: str, step: str) -> None:  # noqa: ARG001
    """The body of a step's chord. `parts` only says that the step is over: the answers are in the store."""
    structlog.contextvars.bind_contextvars(deliberation_id=deliberation_id, step=step)
    with counted(_attempt(deliberation_id, close_step.request)) as (verdict, deaths):
        if verdict == "run":
            _finish_step(deliberation_id, step)
        elif verdict == "exhausted":
            _give_up(deliberation_id, deaths)
        elif step != RECORD:  # another task is at it and cannot know that the step is over: its chord is done with this
            runtime().store.deliberations.seal_step(deliberation_id, step)


@shared_task(name=ADVANCE, ignore_result=True)  # type: ignore[untyped-decorator]
@patient
def advance(deliberation_id: str) -> None:
    """What the watchdog sends for a deliberation that is due."""
    structlog.contextvars.bind_contextvars(deliberation_id=deliberation_id)
    with counted(_attempt(deliberation_id, advance.request)) as (verdict, deaths):
        if verdict == "run":
            _advance(deliberation_id)
        elif verdict == "exhausted":
            _give_up(deliberation_id, deaths)


def _advance(id: str) -> None:
    store = runtime().store.deliberations
    where = store.where(id)
    if where is None or where.recorded:
        store.settle(id)
        return
    structlog.contextvars.bind_contextvars(step=where.step)
    if where.sealed or where.step == RECORD:
        _finish_step(id, where.step)
    else:  # it entered the step, and who was to open it did not
        task = store.task(id)
        runtime().dispatcher.open_step(task, where.step, steps.participants(task, where.step, store.answers(id)))


def _finish_step(id: str, step: str) -> None:
    if step != RECORD:
        _close(id, step)
    record(id)


def _attempt(id: str, request: Any) -> Attempt:
    """The same one however often `patient` calls."""
    return Attempt.here(Part.of_council(id), request.hostname, str(request.id))


def _give_up(id: str, deaths: Sequence[Death]) -> None:
    """Ends a deliberation whose council died of it again and again: FAILED, with a dead letter that has the reason.

    A decision that was frozen before then is in the dead letter, to be written to the graph by its replay.
    """
    store, letters = runtime().store.deliberations, runtime().store.dead_letters
    where, task, frozen = store.where(id), store.task(id), store.decision(id)
    if where is None or where.recorded:
        return
    count = runtime().settings.part_deaths
    reason = f"in {where.step}: the council's process died {count} times of {id}"
    work: Decision | Task = frozen or task
    letters.add("council", reason, work.dump(), count, history=deaths)
    log.error("deliberation.given_up", deaths=count, entered=where.step)
    if frozen:
        failed = _failed(task, Sealed(0, store.now_ms(), frozen.started_at_ms), reason)
        store.finish(failed, [DeliberationFinished.of(failed)])
    elif sealed := store.seal_step(id, where.step):
        store.enter_step(id, where.step, RECORD, _stepped(task, RECORD), _failed(task, sealed, reason))
        store.due_at(id, 0)


def _close(id: str, step: str) -> None:
    """Seals the step and enters the next one, or freezes the decision."""
    here = runtime()
    store = here.store.deliberations
    sealed = store.seal_step(id, step)
    if sealed is None:
        return
    task, answers = store.task(id), store.answers(id)
    following = steps.next_step(task, step, answers, sealed.budget_ms)
    if following is None:
        decision = _decided(task, answers, sealed)
        store.enter_step(id, step, RECORD, _stepped(task, RECORD), decision)
        log.info("deliberation.decided", status=decision.status, winner_id=decision.winner_id)
    elif store.enter_step(id, step, following, _stepped(task, following)):
        here.dispatcher.open_step(task, following, steps.participants(task, following, answers))
        log.info("deliberation.stepped", entered=following)


def _decided(task: Task, answers: dict[str, dict[str, Answer]], sealed: Sealed) -> Decision:
    """The decision; after three crashes of the code that makes it, a failed one that says so and a dead letter."""
    try:
        return _decide(task, answers, sealed)
    except Exception as error:
        log.exception("deliberation.deciding_crashed")
        letters = runtime().store.dead_letters
        attempts = letters.count_attempt("council", task.deliberation_id)
        if attempts < DECIDING_ATTEMPTS:
            raise  # the step is sealed and due: the watchdog comes back to it
        reason = f"deciding crashed {attempts} times: {error!r}"
        letters.add("council", reason, task.dump(), attempts)
        return _failed(task, sealed, reason)


def _failed(task: Task, sealed: Sealed, reason: str) -> Decision:
    return Decision(
        deliberation_id=task.deliberation_id,
        task=task,
        status=Status.FAILED,
        reason=reason,
        chosen_by="none",
        error_message=reason,
        started_at_ms=sealed.started_at_ms,
        decided_at_ms=sealed.now_ms,
    )


def _decide(task: Task, answers: dict[str, dict[str, Answer]], sealed: Sealed) -> Decision:
    return selection.decide(
        task,
        answers,
        _checks(task, answers),
        decided_at_ms=sealed.now_ms,
        started_at_ms=sealed.started_at_ms,
    )


def _checks(task: Task, answers: dict[str, dict[str, Answer]]) -> dict[str, Checks]:
    contents = {proposal.author_id: proposal.content for proposal in selection.proposals(task, answers)}
    return {
        author: checks.check(task, content, [other for name, other in contents.items() if name != author])
        for author, content in contents.items()
    }


def record(id: str) -> None:
    """Writes the frozen decision to the graph, then makes it final; while Neo4j is away the deliberation waits."""
    here = runtime()
    store = here.store.deliberations
    where, decision = store.where(id), store.decision(id)
    if where is None or where.recorded or decision is None:
        return
    try:
        with one_tries.here():
            decision = _recorded(decision)
    except Unavailable:
        store.due_at(id, GRAPH_RETRY_MS)
        return
    if store.finish(decision, [DeliberationFinished.of(decision), *_added(decision)]):
        log.info("deliberation.finished", status=decision.status, winner_id=decision.winner_id)


def _recorded(decision: Decision) -> Decision:
    """Writes the decision to the graph; returns what the graph has, which is another one if ValKey lost its memory."""
    here = runtime()
    plan_id = decision.task.plan_id
    plan = here.store.submissions.plan(plan_id) if plan_id else None
    try:
        graph().record_decisions([decision], {plan_id: plan} if plan_id and plan else {})
    except Conflict as error:
        here.store.dead_letters.add("council", f"not recorded: {error}", decision.dump())
        if recorded := graph().decision(decision.deliberation_id):
            return recorded
        graph().record_decisions([decision])  # it is the plan that is another one there
    return decision


def _stepped(task: Task, step: str) -> DeliberationStepped:
    return DeliberationStepped(status=Status.IN_PROGRESS, step=step, **about(task))


def _added(decision: Decision) -> list[DecisionAdded]:
    story_id = decision.task.story_id
    return [DecisionAdded(story_id=story_id, decision_id=decision.decision_id)] if decision.winner_id else []
