"""The processes of a one-machine fleet for benchmarks, as `fleet up` starts them, and a client that costs little."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from typing import Any

from fleet.stack.process import Process, start_all
from fleet.stack.processes import Fleet

FINISHED = "fleet:finished"
KEPT_S = 3.0  # gunicorn closes a connection that is idle for 5 s


@contextlib.contextmanager
def started(fleet: Fleet, servers: Sequence[Process], processes: Sequence[Process], **settings: str) -> Iterator[None]:
    """Runs `servers`, then the fleet's `processes` with `settings`, for as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        for process in [*servers, *processes]:
            stack.callback(process.stop)
        start_all(servers)
        fleet.connect()
        for process in processes:
            process.env.update(settings)
        start_all(processes)
        yield


class Client:
    """One keep-alive connection to the API."""

    def __init__(self, fleet: Fleet):
        self._connection = HTTPConnection("127.0.0.1", fleet.api.port, timeout=90)
        self._headers = {"Authorization": f"Bearer {fleet.api_key}", "Content-Type": "application/json"}
        self._used_at = 0.0

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises: RuntimeError unless it is accepted (202)."""
        return self._request("POST", path, 202, json.dumps(body).encode())

    def get(self, path: str) -> dict[str, Any]:
        """Raises: RuntimeError unless it is found (200)."""
        return self._request("GET", path, 200)

    def _request(self, method: str, path: str, expected: int, body: bytes | None = None) -> dict[str, Any]:
        if time.monotonic() - self._used_at > KEPT_S:
            self._connection.close()  # the request opens another
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        text = response.read()
        self._used_at = time.monotonic()
        if response.status != expected:
            raise RuntimeError(f"{method} {path}: {response.status} {text.decode()[:500]}")
        answer: dict[str, Any] = json.loads(text)
        return answer
