"""What agents write, side by side, as far as it was heard."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fleet.cli.output import plain

_KEPT = 2_000  # characters of the end of a text: more than a panel shows
_NARROWEST, _LOWEST, _HIGHEST = 36, 4, 12  # a panel with its border, in columns and lines
_STATES = {"writing": "cyan", "done": "green", "failed": "red"}


@dataclass(frozen=True, slots=True)
class Writer:
    """One agent in one run of a step: the end of its text, and how many tokens it has written."""

    step: str
    stream: str
    text: str = ""
    tokens: int = 0
    state: str = "writing"

    def after(self, message: Mapping[str, Any]) -> "Writer":
        """The same agent after one more message; of another run it begins anew."""
        if message["stream"] != self.stream:
            return Writer(message["step"], message["stream"]).after(message)
        text = (self.text + message.get("text", ""))[-_KEPT:]
        ended = message["type"] == "complete"
        state = ("failed" if message.get("failed") else "done") if ended else self.state
        return replace(self, text=text, tokens=message["position"] + message.get("tokens", 0), state=state)


class Writers:
    """What was heard of each agent so far. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writers: dict[str, Writer] = {}
        self._step = ""  # that was begun last

    def take(self, subject: str, message: Mapping[str, Any]) -> None:
        """Messages of other kinds change nothing."""
        if subject.startswith("vllm.streaming."):
            with self._lock:
                before = self._writers.get(message["agent_id"], Writer("", ""))
                self._writers[message["agent_id"]] = before.after(message)
                if message["type"] == "start":
                    self._step = message["step"]
                self._step = self._step or message["step"]

    def latest(self) -> dict[str, Writer]:
        """Those of the step that was begun last, by agent and in the agents' order."""
        with self._lock:
            found = dict(sorted(self._writers.items()))
        return {agent: writer for agent, writer in found.items() if writer.step == self._step}


@dataclass(frozen=True)
class Desk:
    """The agents of one step next to each other, in as many rows as they need, within `height` lines."""

    writers: Mapping[str, Writer]
    height: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = max(1, min(len(self.writers), options.max_width // _NARROWEST))
        rows = -(-len(self.writers) // columns)
        height = min(_HIGHEST, self.height // max(1, rows))
        if not self.writers or height < _LOWEST:
            return
        width = options.max_width // columns
        grid = Table.grid(expand=True)
        for _ in range(columns):
            grid.add_column(ratio=1)
        panels = [_panel(console, agent, writer, width, height) for agent, writer in self.writers.items()]
        for at in range(0, len(panels), columns):
            grid.add_row(*panels[at : at + columns])
        yield grid


def _panel(console: Console, agent: str, writer: Writer, width: int, height: int) -> RenderableType:
    """The last lines that fit. The text is a model's: nothing in it may steer the terminal."""
    lines = Text(plain(writer.text).replace("\t", "  ")).wrap(console, max(1, width - 4))
    title = Text.assemble((plain(agent), "bold"), f" {plain(writer.step)} · {writer.tokens} tokens")
    shown = Text("\n").join(lines[-(height - 2) :])
    return Panel(shown, title=title, title_align="left", height=height, border_style=_STATES[writer.state])
