"""What people see (rich tables) and what programs read (`--json`: one document on stdout)."""

import json
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

console = Console(highlight=False)
F = TypeVar("F", bound=Callable[..., Any])

LONG = ("agents", "reason")  # columns that are broken into lines before others are
COLOURS = {"COMPLETED": "green", "PARTIAL": "yellow", "FAILED": "red", "CANCELLED": "red", "IN_PROGRESS": "cyan"}


def json_option(command: F) -> F:
    """Adds `--json` as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")(command)


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))


def status(value: str) -> Text:
    return Text(value, style=COLOURS.get(value, ""))


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table; strings in `rows` are shown as they are, never as markup."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for column in columns[:-1]:
        made.add_column(column, overflow="fold", no_wrap=column not in LONG)
    made.add_column(columns[-1], overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else escape(str(cell)) for cell in row))
    console.print(made)


def print_deliberation(found: dict[str, Any]) -> None:
    """One deliberation for people: its state, the ranking with checks, the winner and why, what failed."""
    heading = f"{found['role']} · {found['task_id']} · {found['deliberation_id']}"
    console.print(Text(heading, style="bold"), status(found["status"]))
    if found.get("step"):
        console.print(f"  now in {found['step']}, {found['current_count']} of {found['expected_count']} proposals")
    if found.get("results"):
        rows = [_ranked(result, found.get("winner_id")) for result in found["results"]]
        table("Proposals", ["rank", "agent", "score", "checks", "peers", "proposal"], rows)
    if found.get("winner_id"):
        print_winner(found)
    for failure in found.get("failures", []):
        reason = f"{failure['failure']['type']}: {failure['failure']['message']}"
        line = f"  {failure['agent_id']} in {failure['step']} failed: {reason}"
        console.print(Text(line, style="yellow"), soft_wrap=True)
    if found.get("error_message"):
        console.print(Text(f"  {found['error_message']}", style="red"))


def print_winner(found: dict[str, Any]) -> None:
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
    console.print(Panel(Text("\n".join(lines)), title=f"Winner: {found['winner_id']}", title_align="left"))


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
