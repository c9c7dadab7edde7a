"""/v1/councils."""

from flask import Response
from pydantic import Field

from fleet.api.replies import reply
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.errors import NotFound
from fleet.models import Council, Model, Role

councils = Section("councils", "The agents of each role")


class CouncilPage(Model):
    items: tuple[Council, ...]
    next_cursor: str | None = Field(None, description="Always absent: there is one page")


@councils.operation(
    "GET", "/councils", Operation(summary="List the councils", answers={200: Answer("All councils", CouncilPage)})
)
def list_councils() -> Response:
    return reply(CouncilPage(items=tuple(services().store.councils.list())))


@councils.operation(
    "GET", "/councils/{role}", Operation(summary="The council of a role", answers={200: Answer("The council", Council)})
)
def get_council(role: str) -> Response:
    council = services().store.councils.get(Role(role)) if role in list(Role) else None
    if council is None:
        raise NotFound("council", role)
    return reply(council)
