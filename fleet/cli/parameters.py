"""Arguments and options that several verbs share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from fleet.models import Role, Status

F = TypeVar("F", bound=Callable[..., Any])

ROLE = click.Choice([role.value for role in Role], case_sensitive=False)
STATUS = click.Choice([status.value for status in Status], case_sensitive=False)
_LONGEST_ID = 256


class IdType(click.ParamType[str]):
    """An id of anything: what could not be one segment of a URL is refused."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.strip() or text in (".", ".."):
            self.fail(f"{text!r} is no id.", param, ctx)
        if not text.isascii() and text.encode(errors="replace").decode() != text:
            self.fail("an id is UTF-8.", param, ctx)
        if len(text) > _LONGEST_ID:
            self.fail(f"an id has at most {_LONGEST_ID} characters.", param, ctx)
        return text


ID = IdType()


def limit_option(command: F) -> F:
    """Adds `--limit`."""
    option = click.option(
        "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Print at most so many."
    )
    return option(command)
