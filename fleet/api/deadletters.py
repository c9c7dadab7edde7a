"""/v1/deadletters."""

from flask import Response
from pydantic import Field

from fleet.api.paging import PageQuery, encode
from fleet.api.replies import reply
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.errors import NotFound
from fleet.models import DeadLetter, Model

deadletters = Section("deadletters", "What could not be processed, with its reason")


class DeadLetterPage(Model):
    items: tuple[DeadLetter, ...]
    next_cursor: str | None = Field(None, description="Absent on the last page")


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
    letter = services().store.dead_letters.get(dead_letter_id)
    if letter is None:
        raise NotFound("dead letter", dead_letter_id)
    return reply(letter)
