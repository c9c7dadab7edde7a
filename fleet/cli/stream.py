"""The event stream of a fleet, read on across lost connections."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click
import httpx2

from fleet.cli.client import UNREACHABLE, Client, fail, refuse

PATIENCE_S = 60.0  # longer than a restart of the API, or of the whole fleet on one machine
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the log; `id` is its place there, `subject` is empty for what only moves the place."""

    id: str
    subject: str
    payload: dict[str, Any]


class Stream:
    """Iterates over the events after the id `after`, each once, and None when there was nothing for a while.

    Without `after` it is a stream that keeps nothing, of which only what is yet to come is there to be read.

    A connection that is lost once it was there is opened again where it ended. With `follow` the stream ends when the
    server says that nothing will follow, without it at the present.
    Raises: Failure, with exit code 3 when the fleet is away, or was away for `patience_s` seconds.
    """

    def __init__(
        self, client: Client, path: str, *, after: str | None = "0", follow: bool = True,
        patience_s: float = PATIENCE_S, note: Callable[[str], None] = lambda text: click.echo(text, err=True),
    ):  # fmt: skip
        self._client, self._path, self._follow = client, path, follow
        self._query = {"follow": str(follow).lower()} | ({"after": after} if after else {})
        self._patience_s, self._note = patience_s, note
        self._last: str | None = None
        self._connected = self._ended = False
        self._lost_at: float | None = None

    def __iter__(self) -> Iterator[Event | None]:
        while not self._ended:
            try:
                yield from self._connection()
            except httpx2.TransportError as error:
                self._lost(error)
            if not self._ended:
                time.sleep(_RETRY_S)
                self._client.find_again()

    def _connection(self) -> Iterator[Event | None]:
        with self._client.open(self._path, self._last, **self._query) as answer:
            self._ended = answer.status_code == 204
            if not answer.is_success:
                self._refused(answer)
            self._connected, self._lost_at = True, None
            for event in frames(answer.iter_text()):
                self._last = (event and event.id) or self._last
                if event is None or event.subject:
                    yield event
            self._ended = self._ended or not self._follow

    def _refused(self, answer: httpx2.Response) -> None:
        """A server that is busy, starting or without ValKey counts as one that is away for a while."""
        answer.read()
        if self._connected and answer.status_code in (502, 503, 504):
            raise httpx2.ReadError(f"it answers {answer.status_code}")
        refuse(answer)

    def _lost(self, error: httpx2.TransportError) -> None:
        url, reason, now = self._client.address.url, error or type(error).__name__, time.monotonic()
        if not self._connected:
            fail(f"cannot reach the fleet at {url}: {reason}", UNREACHABLE)
        if self._lost_at is None:
            self._lost_at = now
            self._note(f"the connection to {url} is lost, trying again for {self._patience_s:g} s")
        if now - self._lost_at >= self._patience_s:
            remedy = "see that it runs with `fleet doctor`, then give the same command again"
            fail(f"lost the fleet at {url} {self._patience_s:g} s ago ({reason}): {remedy}", UNREACHABLE)


def frames(chunks: Iterable[str]) -> Iterator[Event | None]:
    """The Server-Sent Events in a text that comes in pieces; None for a comment. What is cut short is left out."""
    id, subject, data, rest = "", "", "", ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")  # not splitlines: JSON may have other line separators
        for line in lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                id = value
            elif name == "event":
                subject = value
            elif name == "data":
                data += value
            elif not line and (data or id):
                yield Event(id, subject if data else "", json.loads(data or "{}"))
                id, subject, data = "", "", ""
            elif line and not name:
                yield None
