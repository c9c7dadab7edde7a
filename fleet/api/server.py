"""How gunicorn serves the API: what `gunicorn.conf.py` calls."""

import http
import json
import socket
from typing import Any

import gunicorn.util
from flask import Flask, Response
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http.errors import ParseException

from fleet import telemetry
from fleet.api import problems
from fleet.api.auth import is_local
from fleet.api.problems import MEDIA_TYPE
from fleet.settings import refuse

PROGRAM = "fleet api"


def check_exposure(addresses: list[Any], key: str) -> None:
    """Ends the process when other machines could call an API that asks for no key.

    An address is as gunicorn has it: (host, port, …), or a path or a number, which tell of no host.
    """
    for address in addresses:
        if not key and not _is_local(address):
            host, port = address[:2]
            reason = f"refuses to listen on {host or '*'}:{port} without a key: set FLEET_API_KEY, or bind to 127.0.0.1"
            refuse(PROGRAM, reason)


def _is_local(address: Any) -> bool:
    return not isinstance(address, tuple) or is_local(address[0] or "0.0.0.0")


def serve_with(app: Flask, worker: Any) -> None:
    """Tells the application of the worker that serves it: how many threads it has, and when it stops."""
    services = app.extensions["fleet"]
    services.long_requests.most = max(1, worker.cfg.threads * 3 // 4)
    services.stopping = lambda: not worker.alive
    app.register_error_handler(ParseException, _malformed)


def _malformed(error: ParseException) -> Response:
    """What gunicorn finds wrong only when the body is read, such as a chunk without a size."""
    return problems.answer(problems.MALFORMED, str(error) or type(error).__name__)


class Logger(GunicornLogger):  # type: ignore[misc]
    """Sends gunicorn's own messages where all others go."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        telemetry.configure("api")
        self.error_log.handlers = []
        self.error_log.propagate = True


def write_problem(sock: socket.socket, status: int, reason: str, message: str) -> None:
    """What gunicorn answers when it cannot read a request; its own answer is an HTML page."""
    body = json.dumps({"type": "about:blank", "title": reason, "status": status, "detail": message or reason})
    head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: {MEDIA_TYPE}\r\n"
    gunicorn.util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii"))


def install() -> None:
    """gunicorn has no setting for what it answers to a request that it cannot read."""
    gunicorn.util.write_error = write_problem
