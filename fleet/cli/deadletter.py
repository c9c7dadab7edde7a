"""`fleet deadletter`: what could not be processed."""

import json
from collections.abc import Mapping
from typing import Any

import click

from fleet.cli.client import Client, at
from fleet.cli.output import console, json_option, plain, print_json, print_page, when
from fleet.cli.parameters import ID, limit_option

_SHOWS = {"plan": "fleet plan show", "deliberation": "fleet deliberation watch"}


@click.group()
def deadletter() -> None:
    """Look at what could not be processed, replay or discard it."""


@deadletter.command("list")
@limit_option
@json_option
def list_dead_letters(limit: int, as_json: bool) -> None:
    """List the dead letters, the newest first."""
    page = Client().pages(at("deadletters"), limit)
    if as_json:
        print_json(page)
    else:
        print_page(page, "Dead letters", ["id", "since (UTC)", "source", "reason"], _row)


@deadletter.command()
@click.argument("dead_letter_id", metavar="ID", type=ID)
@json_option
def show(dead_letter_id: str, as_json: bool) -> None:
    """Show a dead letter: where it came from, why it is one, and the message itself."""
    found = Client().get(at("deadletters", dead_letter_id))
    if as_json:
        print_json(found)
        return
    about = f"{found['source']}, {when(found['created_at_ms'])} UTC, tried {found['attempts']} times"
    history = [_death(one) for one in found.get("history", ())]
    for line in (about, f"Why: {found['reason']}", *history, "", _pretty(found["payload"])):
        console.print(plain(line), markup=False, soft_wrap=True)


@deadletter.command()
@click.argument("dead_letter_id", metavar="ID", type=ID)
@json_option
def replay(dead_letter_id: str, as_json: bool) -> None:
    """Process a dead letter's message once more, now that what was wrong is put right."""
    found = Client().post(at("deadletters", dead_letter_id, "replay"))
    if as_json:
        print_json(found)
        return
    shows = f": `{_SHOWS[found['kind']]} {found['id']}` shows it" if found["kind"] in _SHOWS else ""
    click.echo(plain(f"{found['kind']} {found['id']} is accepted{shows}"))


@deadletter.command()
@click.argument("dead_letter_id", metavar="ID", type=ID)
@json_option
def discard(dead_letter_id: str, as_json: bool) -> None:
    """Delete a dead letter for good."""
    Client().delete(at("deadletters", dead_letter_id))
    document = {"dead_letter_id": dead_letter_id, "discarded": True}
    print_json(document) if as_json else click.echo(plain(f"{dead_letter_id} is discarded"))


def _row(letter: Mapping[str, Any]) -> list[Any]:
    return [letter["dead_letter_id"], when(letter["created_at_ms"]), letter["source"], letter["reason"]]


def _death(death: Mapping[str, Any]) -> str:
    where = f"{death['worker']}, process {death['pid']}"
    return f"Death {death['attempt']}: {where}, heard of last {when(death['at_ms'])} UTC"


def _pretty(payload: str) -> str:
    try:
        return json.dumps(json.loads(payload), ensure_ascii=False, indent=2)
    except ValueError:
        return payload
