"""/v1/deadletters."""

from typing import Literal

from flask import Response
from pydantic import Field

from fleet.api import problems
from fleet.api.paging import PageQuery, encode
from fleet.api.replies import no_content, reply
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.decode import decode_plan, decode_task, decode_transition, decode_work
from fleet.errors import Conflict, InvalidRequest, NotFound
from fleet.events import PLAN_APPROVED, STORY_TRANSITIONED
from fleet.graph.record import transition_key
from fleet.models import DeadLetter, Decision, Model
from fleet.store.keys import Scope

deadletters = Section("deadletters", "What could not be processed, with its reason")


class DeadLetterPage(Model):
    items: tuple[DeadLetter, ...]
    next_cursor: str | None = Field(None, description="Absent on the last page")


class Replayed(Model):
    """What became of a dead letter's message. A deliberation's is a new one, or the one whose decision was written."""

    kind: Literal["plan", "deliberation", "transition"]
    id: str
    location: str | None = Field(None, description="Where to see it; absent for a transition")


@deadletters.operation(
    "GET",
    "/deadletters",
    Operation(
        summary="List dead letters, the newest first",
        query=PageQuery,
        answers={200: Answer("Some of the dead letters", DeadLetterPage)},
    ),
)
def list_dead_letters(query: PageQuery) -> Response:
    page = services().store.pages.dead_letters(query.limit, query.position())
    return reply(DeadLetterPage(items=page.items, next_cursor=encode(page.end)))


@deadletters.operation(
    "GET",
    "/deadletters/{dead_letter_id}",
    Operation(summary="A dead letter with its message", answers={200: Answer("The dead letter", DeadLetter)}),
)
def get_dead_letter(dead_letter_id: str) -> Response:
    return reply(_find(dead_letter_id))


@deadletters.operation(
    "POST",
    "/deadletters/{dead_letter_id}/replay",
    Operation(
        summary="Process a dead letter's message once more",
        description="The letter is gone when that succeeds, and stays when it does not: `errors` says why. Whatever "
        "of it was done before is not done twice.",
        answers={202: Answer("Processed", Replayed)},
        scope=Scope.ADMIN,
        submits=True,
    ),
)
def replay_dead_letter(dead_letter_id: str) -> Response:
    letter = _find(dead_letter_id)
    try:
        done = _process(letter)
    except (InvalidRequest, Conflict) as error:
        faults = error.faults if isinstance(error, InvalidRequest) else [((), str(error))]
        raise problems.refuse_faults([(("payload", *place), message) for place, message in faults]) from None
    services().store.dead_letters.remove(dead_letter_id)
    return reply(done, 202, done.location)


@deadletters.operation(
    "DELETE",
    "/deadletters/{dead_letter_id}",
    Operation(summary="Discard a dead letter", answers={204: Answer("It is gone", media_type=None)}),
)
def discard_dead_letter(dead_letter_id: str) -> Response:
    services().store.dead_letters.remove(_find(dead_letter_id).dead_letter_id)
    return no_content()


def _find(id: str) -> DeadLetter:
    letter = services().store.dead_letters.get(id)
    if letter is None:
        raise NotFound("dead letter", id)
    return letter


def _process(letter: DeadLetter) -> Replayed:
    """Raises: InvalidRequest or Conflict when the message can still not be processed."""
    replay = {PLAN_APPROVED: _plan, STORY_TRANSITIONED: _transition, "council": _work, "agents": _part}.get(
        letter.source
    )
    if replay is None:
        raise InvalidRequest([((), f"what comes from {letter.source} can only be discarded")])
    return replay(letter)


def _plan(letter: DeadLetter) -> Replayed:
    plan = decode_plan(letter.payload.encode())
    services().dispatcher.submit_plan(plan)
    return Replayed(kind="plan", id=plan.plan_id, location=f"/v1/plans/{plan.plan_id}")


def _transition(letter: DeadLetter) -> Replayed:
    transition = decode_transition(letter.payload.encode())
    services().graph.record_transition(transition)
    return Replayed(kind="transition", id=transition_key(transition))


def _work(letter: DeadLetter) -> Replayed:
    work = decode_work(letter.payload.encode())
    if isinstance(work, Decision):
        plan = services().store.submissions.plan(work.task.plan_id) if work.task.plan_id else None
        services().graph.record_decisions([work], {plan.plan.plan_id: plan} if plan else {})
        id = work.deliberation_id
    else:
        id = services().dispatcher.replay(work, f"dead letter {letter.dead_letter_id}")
    return _deliberation(id)


def _part(letter: DeadLetter) -> Replayed:
    """Several agents may have died of one task: it is asked once more, whichever of their letters is replayed."""
    task = decode_task(letter.payload.encode())
    return _deliberation(services().dispatcher.replay(task, f"deaths in {task.deliberation_id}"))


def _deliberation(id: str) -> Replayed:
    return Replayed(kind="deliberation", id=id, location=f"/v1/deliberations/{id}")
