"""What people see (rich tables) and what programs read (`--json`: one document on stdout)."""

import json
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

F = TypeVar("F", bound=Callable[..., Any])

_WIDE = 160  # columns where there is no terminal to say: wide enough that no id is broken into lines
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE
console = Console(highlight=False, width=_WIDTH)

LONG = (
    "agents",
    "reason",
    "task",
    "proposal",
    "payload",
    "remedy",
    "state",
    "queues",
    "model",
    "scopes",
    "title",
    "deliberations",
    "figures",
)
_SHORT = 16  # characters that are left to such a column at least
COLOURS = {"COMPLETED": "green", "PARTIAL": "yellow", "FAILED": "red", "CANCELLED": "red", "IN_PROGRESS": "cyan"}


def json_option(command: F) -> F:
    """Adds `--json` as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")(command)


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))


def plain(text: Any) -> str:
    """The text without the control characters that would steer a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def status(value: str | None) -> Text:
    return Text(plain(value or "-"), style=COLOURS.get(value or "", ""))


def when(ms: int | None) -> str:
    """Unix time in milliseconds as UTC."""
    return "-" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def seconds(ms: int | None) -> str:
    return "-" if ms is None else f"{ms / 1000:.1f} s"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table; strings in `rows` are shown as they are, never as markup, and None as a dash.

    Where it is too wide for the terminal each row is a paragraph instead: an id that is cut is no use.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    if _least_width(columns, cells) <= console.width:
        console.print(make_table(title, columns, cells))
        return
    console.print(Text(plain(title), style="bold"))
    for row in cells:
        paragraph = Table.grid(padding=(0, 2))
        for name, value in zip(columns, row, strict=True):
            paragraph.add_row(Text(name, style="bold"), value)
        console.print(paragraph, "")


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> int:
    """What a table needs so that only the columns of `LONG` are broken into lines."""
    widths = [max([cell_len(name), *(row[place].cell_len for row in rows)]) for place, name in enumerate(columns)]
    needed = [min(width, _SHORT) if name in LONG else width for name, width in zip(columns, widths, strict=True)]
    return 1 + sum(3 + width for width in needed)


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table; the columns of `LONG` are broken into lines before others are."""
    made = Table(title=escape(plain(title)), title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column not in LONG)
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def _cell(value: Any) -> Text:
    return value if isinstance(value, Text) else Text(plain("-" if value is None else value))


def print_page(page: Mapping[str, Any], title: str, columns: Sequence[str], row: Callable[[Any], list[Any]]) -> None:
    """Prints the items of a list as a table, and that there are more where there are."""
    table(title, columns, [row(item) for item in page["items"]])
    if page.get("next_cursor"):
        click.echo("there are more: see them with --limit", err=True)


def print_deliberation(found: Mapping[str, Any]) -> None:
    """One deliberation for people: its state, the ranking with checks, the winner and why, what failed."""
    heading = f"{found['role']} · {task_of(found)} · {found['deliberation_id']}"
    console.print(Text(plain(heading), style="bold"), status(found["status"]))
    if found.get("replay_of"):
        console.print(Text(plain(f"  repeats {found['replay_of']}")))
    if found.get("step"):
        console.print(f"  now in {found['step']}, {found['current_count']} of {found['expected_count']} proposals")
    if found.get("waiting_for"):
        console.print(Text(plain(f"  waits for {found['waiting_for']}"), style="yellow"), soft_wrap=True)
    if found.get("results"):
        rows = [_ranked(result, found.get("winner_id")) for result in found["results"]]
        table("Proposals", ["rank", "agent", "score", "checks", "peers", "proposal"], rows)
    if found.get("winner_id"):
        print_winner(found)
    for failure in found.get("failures", []):
        reason = f"{failure['failure']['type']}: {failure['failure']['message']}"
        line = plain(f"  {failure['agent_id']} in {failure['step']} failed: {reason}")
        console.print(Text(line, style="yellow"), soft_wrap=True)
    if found.get("error_message"):
        console.print(Text(plain(f"  {found['error_message']}"), style="red"))


def task_of(found: Mapping[str, Any]) -> str:
    """The task's id, or its beginning where nobody gave it an id."""
    if found["task_id"] != found["deliberation_id"]:
        return str(found["task_id"])
    return textwrap.shorten(found["task_description"], 40, placeholder="…")


def print_winner(found: Mapping[str, Any]) -> None:
    best = next(one for one in found["results"] if one["proposal"]["author_id"] == found["winner_id"])
    content, checks = best["proposal"]["content"], best["checks"]
    ran = ", ".join(f"{name} {'✓' if ok else '✗'}" for name, ok in checked(checks).items())
    lines = [
        f"Why: {found['reason']}",
        f"Checks: {ran}",
        "",
        f"Summary: {content['summary']}",
        f"Approach: {content['approach']}",
    ]
    lines += [f"  {number}. {step}" for number, step in enumerate(content["steps"], 1)]
    for artifact in content["artifacts"]:
        lines += ["", f"{artifact['path']} ({artifact['language']})", artifact["content"]]
    title = escape(plain(f"Winner: {found['winner_id']}"))
    console.print(Panel(Text(plain("\n".join(lines))), title=title, title_align="left"))


def _ranked(result: dict[str, Any], winner_id: str | None) -> list[Any]:
    proposal = result["proposal"]
    peers = result.get("peer_score")
    return [
        f"{result['rank']}{' ★' if proposal['author_id'] == winner_id else ''}",
        proposal["author_id"],
        f"{result['score']:.2f}",
        f"{result['check_score']:.2f}",
        "-" if peers is None else f"{peers:.2f}",
        textwrap.shorten(proposal["content"]["summary"], 70, placeholder=" …") + _failed_checks(result["checks"]),
    ]


def _failed_checks(checks: dict[str, Any]) -> str:
    failed = [name for name, passed in checked(checks).items() if not passed]
    return f"\nfailed checks: {', '.join(failed)}" if failed else ""


def checked(checks: dict[str, Any]) -> dict[str, bool]:
    """What was checked, and whether it passed; what did not run is absent."""
    named = {name: check["passed"] for name, check in checks.items() if name != "additional_checks" and check}
    return named | {check["check_type"]: check["passed"] for check in checks.get("additional_checks", [])}
