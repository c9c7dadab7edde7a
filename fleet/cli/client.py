"""Where the fleet is, and the HTTP calls to it. Failures end the command with one sentence and the exit code."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import click
import httpx2

from fleet.cli.output import plain
from fleet.cli.refusals import sentence
from fleet.settings import Settings, WrongSettings, load

FAILED, BAD_USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
PAGE = 200  # the most that one page of a list holds


class Failure(click.ClickException):
    """Ends the command: one sentence on stderr, and the exit code."""

    def __init__(self, message: str, code: int = FAILED):
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # a ClickException has one per class

    def show(self, file: Any = None) -> None:
        click.echo(f"fleet: {plain(self.message)}", err=True, file=file)


class AnswerLost(Failure):
    """The connection was there and broke: what was asked for may have been done."""


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Raises: Failure."""
    raise Failure(message, code)


@dataclass(frozen=True)
class Address:
    """Where a fleet listens. The key is left out of the repr."""

    url: str
    key: str = field(repr=False)
    details: dict[str, Any] = field(default_factory=dict, repr=False)


def fleet_file() -> Path:
    """The file that `fleet up` writes when everything is ready."""
    return settings().dir / "fleet.json"


def settings(**given: Any) -> Settings:
    """The settings, with what is given here in place of the environment's.

    Raises: Failure, with exit code 2, when one is wrong.
    """
    try:
        return load(**given)
    except WrongSettings as error:
        fail(f"wrong settings: {error}", BAD_USAGE)


def find() -> Address:
    """FLEET_URL and FLEET_API_KEY, else the fleet of FLEET_DIR. Raises: Failure, code 3, when there is none."""
    if url := os.environ.get("FLEET_URL"):
        return Address(url.rstrip("/"), os.environ.get("FLEET_API_KEY", ""))
    path = fleet_file()
    try:
        details = json.loads(path.read_text())
        return Address(str(details["api_url"]), str(details["api_key"]), details)
    except FileNotFoundError:
        fail(f"no fleet is running in {path.parent}: start one with `fleet up`, or set FLEET_URL", UNREACHABLE)
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}", UNREACHABLE)
    except (ValueError, KeyError, TypeError):
        fail(f"{path} is not what `fleet up` writes: start the fleet again, or set FLEET_URL", UNREACHABLE)


def at(*parts: str) -> str:
    """The path `/v1/…` of these parts, whatever characters they have."""
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


class Client:
    """Calls the API of a fleet; what it answers is JSON. Its methods raise Failure."""

    def __init__(self, address: Address | None = None):
        self.address = address or find()
        self._http = _connect(self.address)

    def get(self, path: str, **parameters: Any) -> Any:
        return self._call("GET", path, params=parameters)

    def post(self, path: str, body: Any = None) -> Any:
        """Posts once, however often it has to be sent: an answer that was lost is asked for again."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        options: dict[str, Any] = {"content": _encode({} if body is None else body), "headers": headers}
        try:
            return self._call("POST", path, **options)
        except AnswerLost:
            return self._call("POST", path, **options)

    def delete(self, path: str) -> None:
        self._call("DELETE", path)

    def pages(self, path: str, limit: int, **parameters: Any) -> dict[str, Any]:
        """The first `limit` items of a list, however many pages they take; `next_cursor` if there are more."""
        wanted = {name: value for name, value in parameters.items() if value is not None}
        items: list[Any] = []
        page: dict[str, Any] = {}
        while not items or (page.get("next_cursor") and len(items) < limit):
            more = {"cursor": page["next_cursor"]} if page else {}
            page = self.get(path, limit=min(limit - len(items), PAGE), **wanted, **more)
            items += page["items"]
            if not page["items"]:
                break
        return {**page, "items": items}

    @contextlib.contextmanager
    def open(self, path: str, last_event_id: str | None, **parameters: Any) -> Iterator[httpx2.Response]:
        """The open answer of a stream, whatever its status. Raises: httpx2.TransportError."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        timeout = httpx2.Timeout(10.0, read=30.0)  # heartbeats come every 10 s
        with self._http.stream("GET", path, params=parameters, headers=headers, timeout=timeout) as answer:
            yield answer

    def find_again(self) -> None:
        """Looks where the fleet is now, if it is one that `fleet up` started: its port may be another one."""
        with contextlib.suppress(Failure):
            if self.address.details and find() != self.address:
                self.address = find()
                self._http = _connect(self.address)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, path, **options)
        except httpx2.TransportError as error:
            lost = isinstance(error, httpx2.ReadError | httpx2.RemoteProtocolError)
            raise (AnswerLost if lost else Failure)(
                f"cannot reach the fleet at {self.address.url}: {error or type(error).__name__}", UNREACHABLE
            ) from error
        if not answer.is_success:
            refuse(answer)
        try:
            return answer.json() if answer.content else None
        except ValueError:
            fail(f"{self.address.url} is no fleet: its answer to {method} {path} is no JSON; check FLEET_URL")


def refuse(answer: httpx2.Response) -> NoReturn:
    """Ends the command with what the server says, and the next step."""
    fail(sentence(answer), BAD_USAGE if answer.status_code in (413, 422) else FAILED)


def _connect(address: Address) -> httpx2.Client:
    key, local = address.key, "//127.0.0.1" in address.url or "//localhost" in address.url
    if not (key.isascii() and key.isprintable()):
        fail("FLEET_API_KEY has characters that no key has: set it again", BAD_USAGE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        return httpx2.Client(base_url=address.url, headers=headers, timeout=75.0, trust_env=not local)
    except (httpx2.InvalidURL, ValueError) as error:
        fail(f"FLEET_URL {address.url!r} is no URL: {error}", BAD_USAGE)


def _encode(body: Any) -> bytes:
    """JSON; YAML's dates become texts. Raises: Failure when there is no JSON for it."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, default=_date).encode()
    except UnicodeEncodeError:
        fail("what you gave has characters that are not UTF-8", BAD_USAGE)
    except (TypeError, ValueError, RecursionError) as error:
        fail(f"what you gave cannot be sent as JSON: {error}", BAD_USAGE)


def _date(value: Any) -> str:
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"{type(value).__name__} is none of its types")
