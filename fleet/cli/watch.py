"""Waits for deliberations and shows meanwhile what happens in them: live on a terminal, else a line per event."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live

from fleet.cli.board import Board
from fleet.cli.client import FAILED, INTERRUPTED, UNREACHABLE, Client, Failure, at
from fleet.cli.output import console, print_deliberation
from fleet.cli.progress import Track, concerns, event_line, is_last
from fleet.cli.stream import PATIENCE_S, Event, Stream
from fleet.cli.writing import Desk, Writers


class Watch:
    """Follows some deliberations until all are final."""

    def __init__(self, client: Client, ids: Iterable[str], screen: Console):
        self._client, self._screen = client, screen
        found = [client.get(at("deliberations", id)) for id in dict.fromkeys(ids)]
        self.tracks = {one["deliberation_id"]: Track.of(one) for one in found}
        self._since_ms = min((one["created_at_ms"] for one in found), default=0)
        self._writers: Writers | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        board = Board(list(self.tracks.values()), time.time())
        yield board
        if self._writers and not self._done():
            taken = len(console.render_lines(board, options, pad=False))
            yield Desk(self._writers.latest(), console.height - taken - 1)

    def run(self) -> list[dict[str, Any]]:
        """Returns the deliberations, in order, once all are final."""
        if not self._done():
            with self._shown() as show:
                for event in self._stream():
                    self._listen()
                    self._take(event, show)
                    if self._done():
                        break
        while not self._done():  # the stream ended early
            self._settle(wait=30)
        return [dict(track.result or {}) for track in self.tracks.values()]

    def _stream(self) -> Stream:
        """One deliberation has a stream of its own; several share the fleet's, since streams are few."""
        note = self._screen.print if self._screen.is_terminal else _to_stderr
        if len(self.tracks) == 1:
            return Stream(self._client, at("deliberations", *self.tracks, "events"), note=note)
        since = str(self._since_ms - 1)  # ValKey's clock, which numbers the events too
        return Stream(self._client, at("events"), after=since, note=note)

    def _take(self, event: Event | None, show: Callable[[Track, Event], None]) -> None:
        if event is None:
            return self._settle()  # should the log have lost an event
        track = self.tracks.get(concerns(event) or "")
        if track and not track.result:
            self.tracks[track.id] = track.after(event)
            show(track, event)
            if is_last(event):
                self._settle(track.id)
        return None

    def _settle(self, *ids: str, wait: int = 0) -> None:
        """Asks how the unfinished ones stand, waiting up to `wait` seconds for each."""
        for track in list(self.tracks.values()):
            if not track.result and track.id in (ids or self.tracks):
                found = _patiently(self._client, at("deliberations", track.id), wait)
                if Track.of(found).final:
                    self.tracks[track.id] = self.tracks[track.id].finished(found)

    def _done(self) -> bool:
        return all(track.result for track in self.tracks.values())

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Callable[[Track, Event], None]]:
        if self._screen.is_terminal:
            with Live(self, console=self._screen, refresh_per_second=5, vertical_overflow="visible"):
                yield lambda _, __: None
        else:
            yield self._print_line

    def _listen(self) -> None:
        """Shows what is written too, once the events are there: streams are few, and those come first."""
        if self._screen.is_terminal and len(self.tracks) == 1 and not self._writers:
            self._writers = Writers()
            threading.Thread(target=self._hear, args=(self._writers,), name="tokens", daemon=True).start()

    def _hear(self, writers: Writers) -> None:
        """Hears what is written for as long as that can be had."""
        with contextlib.suppress(Failure, ValueError, LookupError):  # those of a server of another version too
            client = Client(self._client.address)
            for event in Stream(client, at("deliberations", *self.tracks, "tokens"), after=None, note=_quietly):
                if event:
                    writers.take(event.subject, event.payload)

    def _print_line(self, track: Track, event: Event) -> None:
        line = event_line(event.subject, event.payload)
        several = f" · {track.task}" if len(self.tracks) > 1 else ""
        self._screen.print(f"{line}{several}", markup=False, soft_wrap=True)


def wait_for(client: Client, ids: Iterable[str], *, as_json: bool) -> list[dict[str, Any]]:
    """The deliberations, once all are final; what happens meanwhile is shown, on stderr when stdout is a document's.

    Ctrl-C leaves them to go on, says how to come back, and ends the command with exit code 130.
    """
    ids = list(ids)
    try:
        return Watch(client, ids, Console(stderr=True, highlight=False) if as_json else console).run()
    except KeyboardInterrupt:
        many = len(ids) > 1
        goes_on = f"the {len(ids)} deliberations go on" if many else "the deliberation goes on"
        id, it = ("ID", "one") if many else (ids[0], "it")
        _to_stderr(
            f"fleet: {goes_on}: `fleet deliberation watch {id}` comes back, `fleet deliberation cancel {id}` stops {it}"
        )
        sys.exit(INTERRUPTED)


def finish(found: list[dict[str, Any]], *, as_json: bool) -> None:
    """Prints the results for people; exit code 1 if any deliberation failed or was cancelled."""
    if not as_json:
        for one in found:
            print_deliberation(one)
    if any(one["status"] in ("FAILED", "CANCELLED") for one in found):
        sys.exit(FAILED)


def _patiently(client: Client, path: str, wait: int) -> Any:
    """Asks again while the fleet is away, for as long as a stream would wait."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.get(path, wait=wait)
        except Failure as error:
            if error.exit_code != UNREACHABLE or time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _quietly(_: str) -> None:
    """The stream of events says the same."""


def _to_stderr(text: str) -> None:
    click.echo(text, err=True)
