"""The HTTP API: `gunicorn -c gunicorn.conf.py 'fleet.api:create_app()'`."""

import logging
import re
import time
import uuid
from typing import Any

import structlog
from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from fleet.api import auth, problems
from fleet.api.cluster import cluster
from fleet.api.councils import councils
from fleet.api.deadletters import deadletters
from fleet.api.deliberations import deliberations
from fleet.api.docs import docs
from fleet.api.events import events
from fleet.api.health import health
from fleet.api.keys import keys
from fleet.api.metrics import metrics
from fleet.api.plans import plans
from fleet.api.reading import MOST_BYTES
from fleet.api.section import Section, current_operation
from fleet.api.services import Services
from fleet.api.tokens import tokens
from fleet.settings import Settings, get_settings

__all__ = ["create_app"]

log = structlog.get_logger(__name__)

REQUEST_ID = "X-Request-Id"
SECTIONS: tuple[Section, ...] = (
    plans,
    deliberations,
    events,
    tokens,
    councils,
    cluster,
    deadletters,
    keys,
    health,
    metrics,
    docs,
)
LOGGED = ("plan_id", "deliberation_id", "role", "agent_id")
PROBES = ("health.livez", "health.readyz")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def create_app(settings: Settings | None = None) -> Flask:
    """The API as a WSGI application. It connects to nothing before the first request that needs it."""
    settings = settings or get_settings()
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES + 1  # at its limit, Flask cuts a chunked body without a word
    app.url_map.merge_slashes = False  # its redirects are HTML pages
    Services(settings).install(app)
    problems.install(app)
    app.before_request(_begin)
    app.before_request(lambda: _authenticate(settings))
    app.after_request(_end)
    for section in SECTIONS:
        app.register_blueprint(section)
    return app


def _begin() -> None:
    given = request.headers.get(REQUEST_ID, "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.began = time.monotonic()
    structlog.contextvars.clear_contextvars()  # threads are used again
    named = {name: value for name, value in (request.view_args or {}).items() if name in LOGGED}
    structlog.contextvars.bind_contextvars(request_id=g.request_id, **named)


def _authenticate(settings: Settings) -> None:
    """Every route needs a caller that is known, an unknown one too, except those that say they are public."""
    operation = current_operation()
    if operation and operation.public:
        return
    g.caller = auth.authenticate(settings)
    structlog.contextvars.bind_contextvars(key_id=g.caller.key_id)
    if operation and operation.scope:
        auth.authorize(g.caller, operation.scope)


def _end(response: Response) -> Response:
    response.headers[REQUEST_ID] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    _log(response)
    return response


def _log(response: Response) -> None:
    """Logs the request with the ids of what it made; for a stream, when it begins."""
    level = logging.DEBUG if request.endpoint in PROBES else logging.INFO
    log.log(
        level,
        "api.request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        duration_ms=round((time.monotonic() - g.began) * 1000, 1),
        **_made(response),
    )


def _made(response: Response) -> dict[str, Any]:
    """The ids in the answer's Location, and those of a plan's deliberations."""
    if not response.location:
        return {}
    try:
        _, found = current_app.url_map.bind("").match(response.location, "GET")
    except HTTPException:
        return {}
    ids = {name: value for name, value in found.items() if name in LOGGED}
    if "plan_id" in ids:
        ids["deliberation_ids"] = [one["deliberation_id"] for one in response.get_json().get("deliberations", ())]
    return ids
