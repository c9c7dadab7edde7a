"""Where the fleet is, and the HTTP calls to it. Failures end the command with one sentence and the exit code."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import click
import httpx2

from fleet.settings import Settings, WrongSettings, get_settings

FAILED, BAD_USAGE, UNREACHABLE = 1, 2, 3


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Ends the command: one sentence on stderr, and the exit code."""
    click.echo(f"fleet: {message}", err=True)
    sys.exit(code)


@dataclass(frozen=True)
class Address:
    """Where a fleet listens. The key is left out of the repr."""

    url: str
    key: str = field(repr=False)
    details: dict[str, Any] = field(default_factory=dict, repr=False)


def fleet_file() -> Path:
    """The file that `fleet up` writes when everything is ready."""
    return settings().dir / "fleet.json"


def settings() -> Settings:
    """The settings; ends the command with exit code 2 when one is wrong."""
    try:
        return get_settings()
    except WrongSettings as error:
        fail(f"wrong settings: {error}", BAD_USAGE)


def find() -> Address:
    """FLEET_URL and FLEET_API_KEY, else the fleet of FLEET_DIR; exit code 3 when there is none."""
    if url := os.environ.get("FLEET_URL"):
        return Address(url.rstrip("/"), os.environ.get("FLEET_API_KEY", ""))
    path = fleet_file()
    try:
        details = json.loads(path.read_text())
    except FileNotFoundError:
        fail(f"no fleet is running in {path.parent}: start one with `fleet up`, or set FLEET_URL", UNREACHABLE)
    except (OSError, ValueError) as error:
        fail(f"cannot read {path}: {error}", UNREACHABLE)
    return Address(details["api_url"], details["api_key"], details)


class Client:
    """Calls the API of a fleet; what it answers is JSON."""

    def __init__(self, address: Address | None = None):
        self.address = address or find()
        headers = {"Authorization": f"Bearer {self.address.key}"} if self.address.key else {}
        self._http = httpx2.Client(base_url=self.address.url, headers=headers, timeout=75.0)

    def get(self, path: str, **parameters: Any) -> Any:
        return self._call("GET", path, params=parameters)

    def post(self, path: str, body: Any) -> Any:
        return self._call("POST", path, json=body)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, path, **options)
        except httpx2.TransportError as error:
            fail(f"cannot reach the fleet at {self.address.url}: {error or type(error).__name__}", UNREACHABLE)
        if answer.is_error:
            fail(_problem(answer), BAD_USAGE if answer.status_code == 422 else FAILED)
        return answer.json()

    def events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The (subject, payload) pairs of an event stream, until the server or the caller ends it."""
        timeout = httpx2.Timeout(10.0, read=60.0)
        try:
            with self._http.stream("GET", path, timeout=timeout) as answer:
                if answer.is_error:
                    answer.read()
                    fail(_problem(answer))
                yield from _server_sent(answer.iter_lines())
        except httpx2.TransportError as error:
            fail(f"lost the fleet at {self.address.url}: {error or type(error).__name__}", UNREACHABLE)


def _server_sent(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    subject = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            subject = value
        elif name == "data":
            yield subject, json.loads(value)


def _problem(answer: httpx2.Response) -> str:
    """The sentence of a problem+json answer, with its faults."""
    try:
        problem = answer.json()
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in problem.get("errors", [])
        ]
        return "; ".join([problem.get("detail") or problem["title"], *faults])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {answer.status_code}"
