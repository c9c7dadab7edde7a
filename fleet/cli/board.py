"""Deliberations that run, as a picture for a terminal: a panel each, or a line each where panels do not fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fleet.cli.output import checked, plain, status
from fleet.cli.progress import RECORD, Cell, Track

_MARKS = {"asked": ("…", "cyan"), "answered": ("✓", "green"), "failed": ("✗", "red"), "missing": ("·", "yellow")}
_WHY = 24  # characters of a reason in a cell; the whole one follows with the result


@dataclass(frozen=True)
class Board:
    """The deliberations at the time `now` (Unix time in seconds)."""

    tracks: Sequence[Track]
    now: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        panels = Columns([_panel(track, self.now) for track in self.tracks], padding=(0, 1))
        if len(console.render_lines(panels, options, pad=False)) < console.height:
            yield panels
        else:
            yield _lines(self.tracks, most=max(1, console.height - 3))


def _panel(track: Track, now: float) -> RenderableType:
    title = Text.assemble((plain(track.role), "bold"), f" · {plain(track.task)} ", status(track.status))
    parts: list[RenderableType] = [Text(plain(track.id), style="dim"), _grid(track, now)]
    if track.steps[-1:] == (RECORD,) and not track.final:
        parts.append(Spinner("dots", Text("checked, ranked and decided; being written to the graph")))
    return Panel(Group(*parts), title=title, title_align="left", expand=False)


def _grid(track: Track, now: float) -> Table:
    """Agents down, steps across, then how each proposal was ranked."""
    steps = [step for step in track.steps if step != RECORD]
    result = track.result or {}
    ranked = {one["proposal"]["author_id"]: one for one in result.get("results", ())}
    grid = Table("agent", *steps, *(("rank", "score", "checks") if ranked else ()), box=None, pad_edge=False)
    for agent in track.agents:
        cells = [_cell(track.cells.get((step, agent)), now) for step in steps]
        place = _place(ranked[agent], result.get("winner_id")) if agent in ranked else []
        grid.add_row(plain(agent), *cells, *place)
    return grid


def _place(result: Mapping[str, Any], winner_id: str | None) -> list[Text]:
    won = result["proposal"]["author_id"] == winner_id
    failed = [name for name, passed in checked(result["checks"]).items() if not passed]
    checks = f"{result['check_score']:.2f}" + "".join(f" ✗ {plain(name)}" for name in failed)
    texts = (f"{result['rank']}{' ★' if won else ''}", f"{result['score']:.2f}", checks)
    return [Text(text, style="bold green" if won else "") for text in texts]


def _cell(cell: Cell | None, now: float) -> Text:
    if cell is None:
        return Text("")
    mark, style = _MARKS[cell.state]
    text = f"{max(0.0, now - cell.at):.0f} s" if cell.state == "asked" else plain(cell.text)
    return Text(f"{mark} {text if len(text) <= _WHY else text[: _WHY - 1] + '…'}", style=style)


def _lines(tracks: Sequence[Track], most: int) -> Table:
    """One line each, those that run first."""
    table = Table("role", "task", "status", "step", "answers", box=None, pad_edge=False)
    order = sorted(tracks, key=lambda track: track.final)
    for track in order[:most]:
        step = track.steps[-1] if track.steps and not track.final else ""
        given = [cell for (at, _), cell in track.cells.items() if at == step]
        answers = f"{sum(cell.state != 'asked' for cell in given)} of {len(given)}" if given else ""
        table.add_row(plain(track.role), plain(track.task), status(track.status), step, answers)
    if left := len(order) - most:
        table.caption = f"and {left} more" if left > 0 else None
    return table
