"""/v1/plans."""

from collections.abc import Mapping

from flask import Response
from pydantic import Field

from fleet.api.paging import PageQuery, encode
from fleet.api.replies import reply
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.errors import NotFound
from fleet.models import Id, Model, PlanReceipt, PlanRequest, Role, Status, StoredPlan

plans = Section("plans", "Approved plans: what is handed in, and the deliberations that follow from it")


class PlanDeliberation(Model):
    """A deliberation of a plan as it is now."""

    deliberation_id: str
    role: Role
    task_id: str
    status: Status | None = Field(
        None, description="In lists, absent for a deliberation finished longer ago than the retention"
    )


class PlanView(Model):
    """A plan as it was handed in, and where its deliberations stand."""

    plan_id: str
    status: str
    deliberations: tuple[PlanDeliberation, ...]
    notes: tuple[str, ...] = ()
    plan: PlanRequest
    created_at_ms: int


class PlanPage(Model):
    items: tuple[PlanView, ...]
    next_cursor: str | None = Field(None, description="Absent on the last page")


class PlansQuery(PageQuery):
    story_id: Id | None = None


@plans.operation(
    "POST",
    "/plans",
    Operation(
        summary="Hand in an approved plan",
        description="One deliberation per subtask that names a role, else one per role, else one per council. The same "
        "plan again changes nothing; `timestamp` and `approved_by` do not count as content.",
        body=PlanRequest,
        answers={
            202: Answer("Accepted: stored, and its deliberations are with the workers", PlanReceipt, location=True),
            200: Answer("The same plan was accepted before", PlanReceipt, location=True),
        },
        problems=(409,),
        submits=True,
    ),
)
def submit_plan(body: PlanRequest) -> Response:
    stored, created = services().dispatcher.submit_plan(body)
    return reply(stored.receipt, 202 if created else 200, location=f"/v1/plans/{body.plan_id}")


@plans.operation(
    "GET",
    "/plans",
    Operation(
        summary="List plans, the newest first",
        query=PlansQuery,
        answers={200: Answer("Some of the plans of the last 35 days", PlanPage)},
    ),
)
def list_plans(query: PlansQuery) -> Response:
    page = services().store.pages.plans(query.limit, query.position(), query.story_id)
    ids = [one.deliberation_id for stored in page.items for one in stored.receipt.deliberations]
    statuses = services().store.pages.statuses(ids)
    return reply(PlanPage(items=tuple(_view(stored, statuses) for stored in page.items), next_cursor=encode(page.end)))


@plans.operation(
    "GET",
    "/plans/{plan_id}",
    Operation(summary="A plan with its deliberations", answers={200: Answer("The plan", PlanView)}),
)
def get_plan(plan_id: str) -> Response:
    stored = services().store.submissions.plan(plan_id)
    ids = [one.deliberation_id for one in stored.receipt.deliberations] if stored else []
    statuses = services().store.pages.statuses(ids)
    if stored is None or len(statuses) < len(ids):
        record = services().graph.plan(plan_id)
        stored = stored or (record.stored if record else None)
        statuses = {one.deliberation_id: one.status for one in (record.decisions if record else ())} | statuses
    if stored is None:
        raise NotFound("plan", plan_id)
    return reply(_view(stored, statuses))


def _view(stored: StoredPlan, statuses: Mapping[str, Status]) -> PlanView:
    receipt = stored.receipt
    return PlanView(
        plan_id=receipt.plan_id,
        status=receipt.status,
        deliberations=tuple(
            PlanDeliberation(
                deliberation_id=one.deliberation_id,
                role=one.role,
                task_id=one.task_id,
                status=statuses.get(one.deliberation_id),
            )
            for one in receipt.deliberations
        ),
        notes=receipt.notes,
        plan=stored.plan,
        created_at_ms=stored.created_at_ms,
    )
