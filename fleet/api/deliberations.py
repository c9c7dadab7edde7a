"""/v1/deliberations."""

import time
from collections.abc import Iterator

from flask import Response
from pydantic import Field

from fleet.api.idempotent import seed
from fleet.api.paging import PageQuery, encode
from fleet.api.peer import gone
from fleet.api.replies import reply
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import Services, services
from fleet.api.waiting import Waiting
from fleet.errors import NotFound, WrongState
from fleet.models import Deliberation, DeliberationRequest, Id, Model, Role, Status, Task

deliberations = Section("deliberations", "What the councils deliberate on, and what came of it")

# A waiting request looks this often whether its process is to stop or its client has gone.
_STOP_CHECK_S = 1.0
_HEAVY = ("results", "ballots", "failures")


class DeliberationsQuery(PageQuery):
    status: Status | None = None
    role: Role | None = None
    plan_id: Id | None = None
    story_id: Id | None = None

    def matching(self) -> dict[str, str]:
        return self.model_dump(mode="json", include={"status", "role", "plan_id", "story_id"}, exclude_none=True)


class DeliberationPage(Model):
    items: tuple[Deliberation, ...] = Field(description="Without `results`, `ballots` and `failures`")
    next_cursor: str | None = Field(None, description="Absent on the last page")


class WaitQuery(Model):
    wait: float = Field(
        0,
        ge=0,
        le=60,
        allow_inf_nan=False,
        description="Answer as soon as it is final, after this many seconds at most",
    )


@deliberations.operation(
    "POST",
    "/deliberations",
    Operation(
        summary="Ask one council for a deliberation",
        description="With a `plan_id`, the same story, plan, role and task are the same deliberation; without one, the "
        "same Idempotency-Key is.",
        body=DeliberationRequest,
        answers={
            202: Answer("Accepted: stored, and with the workers", Deliberation, location=True),
            200: Answer("The same deliberation was accepted before", Deliberation, location=True),
        },
        problems=(409,),
        submits=True,
    ),
)
def submit_deliberation(body: DeliberationRequest) -> Response:
    id, created = services().dispatcher.submit_deliberation(body, seed())
    found = find(services(), id)
    return reply(found, 202 if created else 200, location=f"/v1/deliberations/{found.deliberation_id}")


@deliberations.operation(
    "GET",
    "/deliberations",
    Operation(
        summary="List deliberations, the newest first",
        description="Those that run, and those finished within the retention (an hour unless set otherwise).",
        query=DeliberationsQuery,
        answers={200: Answer("Some of the deliberations", DeliberationPage)},
    ),
)
def list_deliberations(query: DeliberationsQuery) -> Response:
    page = services().store.pages.deliberations(query.limit, query.position(), query.matching())
    waiting = Waiting(services())
    light = (waiting.shown(one).model_copy(update=dict.fromkeys(_HEAVY, ())) for one in page.items)
    return reply(DeliberationPage(items=tuple(light), next_cursor=encode(page.end)))


@deliberations.operation(
    "GET",
    "/deliberations/{deliberation_id}",
    Operation(
        summary="A deliberation and its result",
        query=WaitQuery,
        answers={200: Answer("The deliberation as it is now", Deliberation)},
    ),
)
def get_deliberation(deliberation_id: str, query: WaitQuery) -> Response:
    found = find(services(), deliberation_id)
    if query.wait and not found.status.final:
        with services().long_requests.one():
            found = _wait(services(), found, query.wait)
    return reply(found if found.status.final else Waiting(services()).shown(found))


@deliberations.operation(
    "POST",
    "/deliberations/{deliberation_id}/cancel",
    Operation(
        summary="Cancel a deliberation",
        description="What is queued will not run, what runs is given up, late answers are not kept.",
        answers={202: Answer("Cancelled; the graph has it in a moment", Deliberation)},
        problems=(409,),
    ),
)
def cancel_deliberation(deliberation_id: str) -> Response:
    found = find(services(), deliberation_id)
    if found.status.final:
        raise WrongState("deliberation", deliberation_id, found.status)
    services().dispatcher.cancel(deliberation_id)
    return reply(find(services(), deliberation_id), 202)


@deliberations.operation(
    "POST",
    "/deliberations/{deliberation_id}/replay",
    Operation(
        summary="Deliberate once more on the task of a final deliberation",
        description="A new deliberation with the same task and the same agents; `replay_of` names the old one.",
        answers={202: Answer("Accepted: stored, and with the workers", Deliberation, location=True)},
        problems=(409,),
        submits=True,
    ),
)
def replay_deliberation(deliberation_id: str) -> Response:
    found = find(services(), deliberation_id)
    if not found.status.final:
        raise WrongState("deliberation", deliberation_id, found.status)
    again = find(services(), services().dispatcher.replay(_task(services(), deliberation_id), seed()))
    return reply(again, 202, location=f"/v1/deliberations/{again.deliberation_id}")


def _task(all: Services, id: str) -> Task:
    """The task of a final deliberation. Raises: NotFound, Unavailable."""
    try:
        return all.store.deliberations.task(id)
    except NotFound:
        if decision := all.graph.decision(id):
            return decision.task
        raise


def find(all: Services, id: str) -> Deliberation:
    """The deliberation from ValKey, else from the graph, which has all that are finished.

    Raises: NotFound; Unavailable when ValKey does not know it and Neo4j is away.
    """
    found = all.store.deliberations.get(id) or all.graph.deliberation(id)
    if found is None:
        raise NotFound("deliberation", id)
    return found


def _wait(all: Services, found: Deliberation, seconds: float) -> Deliberation:
    client_gone = gone()
    for step_s in _steps(seconds):
        if found.status.final or all.stopping() or client_gone():
            break
        found = all.store.deliberations.wait(found.deliberation_id, step_s) or found
    return found


def _steps(seconds: float) -> Iterator[float]:
    """Short times that add up to `seconds` from now."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        yield min(left, _STOP_CHECK_S)
