"""The API on a real ValKey, with a Celery application of its own; every answer is held against /openapi.json."""

import contextlib
import http.client
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis
from celery import Celery
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from fleet.api import create_app, openapi
from fleet.api.services import Services
from fleet.dispatch import Dispatcher
from fleet.errors import Unavailable
from fleet.events import DeliberationFinished, DeliberationStepped
from fleet.graph import PlanRecord
from fleet.models import Decision, Deliberation, FailedAnswer, Failure, Status
from fleet.settings import Settings
from fleet.store import RECORD, Store
from fleet.valkey import install
from tests.harness import Process, ValkeyServer, free_port

KEY = "the key of these tests"
ROOT = Path(__file__).parents[3]
Lose = Callable[[str], None]


class NullGraph:
    """A graph that has nothing, or is away."""

    away = False

    def __init__(self) -> None:
        self.deliberations: dict[str, Deliberation] = {}
        self.decisions: dict[str, Decision] = {}
        self.plans: dict[str, PlanRecord] = {}

    def ping(self) -> None:
        if self.away:
            raise Unavailable("neo4j", "connection refused")

    def deliberation(self, id: str) -> Deliberation | None:
        self.ping()
        return self.deliberations.get(id)

    def decision(self, id: str) -> Decision | None:
        self.ping()
        return self.decisions.get(id)

    def plan(self, id: str) -> PlanRecord | None:
        self.ping()
        return self.plans.get(id)


class CheckedClient(FlaskClient):
    """A client that fails a test whose answer is not what /openapi.json says."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        answer = super().open(*args, **{"buffered": True, **kwargs})
        check(self.application, answer)
        return answer


@cache
def documented_api() -> openapi.Document:
    return openapi.build(create_app(Settings()))


def check(app: Flask, answer: TestResponse) -> None:
    """Fails unless the answer's status, media type and body are documented."""
    assert answer.mimetype != "text/html" or answer.request.path == "/docs", answer.text
    assert answer.status_code >= 400 or answer.mimetype != "application/problem+json"
    if answer.status_code >= 400:
        assert answer.mimetype == "application/problem+json"
        assert answer.json["status"] == answer.status_code
        assert {"type", "title", "detail"} <= set(answer.json)
    try:
        endpoint, _ = app.url_map.bind("localhost").match(answer.request.path, answer.request.method)
    except HTTPException:
        return
    document = documented_api()
    rule = next(rule for rule in app.url_map.iter_rules() if rule.endpoint == endpoint)
    method = "get" if answer.request.method == "HEAD" else answer.request.method.lower()
    responses = document["paths"][openapi.path_of(rule)][method]["responses"]
    documented = (
        document["components"]["responses"]["Problem"]
        if answer.status_code == 500
        else responses[str(answer.status_code)]
    )
    assert ("content" in documented) is ("Content-Type" in answer.headers)
    if "content" in documented and answer.request.method != "HEAD":
        assert answer.mimetype in documented["content"]
        validate(document, documented["content"][answer.mimetype]["schema"], answer)


def validate(document: dict[str, Any], schema: dict[str, Any], answer: TestResponse) -> None:
    if answer.is_json or answer.mimetype.endswith("+json"):
        whole = {**schema, "components": document["components"]}
        jsonschema.validate(json.loads(answer.data), whole, cls=jsonschema.Draft202012Validator)


@pytest.fixture
def settings(valkey_server: ValkeyServer) -> Settings:
    return Settings(valkey_url=valkey_server.url, nats_enabled=False, engine="scripted", api_key=KEY)


@pytest.fixture(scope="session")
def celery_app(shared_valkey: ValkeyServer) -> Iterator[Celery]:
    app = Celery("fleet.api.tests", set_as_current=False)
    app.conf.update(
        broker_url=shared_valkey.url,
        result_backend=f"fleet.valkey.backend:Backend+{shared_valkey.url}",
        task_default_queue="council",
    )
    install(app)
    yield app
    app.close()


@pytest.fixture
def graph() -> NullGraph:
    return NullGraph()


@pytest.fixture
def app(settings: Settings, celery_app: Celery, graph: NullGraph) -> Iterator[Flask]:
    app = create_app(settings)
    app.test_client_class = CheckedClient
    services: Services = app.extensions["fleet"]
    services.graph = graph
    services.dispatcher = Dispatcher(services.store, settings, celery_app)
    yield app
    services.store.close()


@pytest.fixture
def services(app: Flask) -> Services:
    found: Services = app.extensions["fleet"]
    return found


@pytest.fixture
def store(services: Services) -> Store:
    return services.store


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Calls with the key."""
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    return client


@pytest.fixture
def lose_answer(monkeypatch: pytest.MonkeyPatch) -> Lose:
    """Loses what ValKey answers next to a command; the client sends the command again."""
    lost: list[str] = []
    parse = redis.Redis.parse_response

    def read(self: "redis.Redis", connection: Any, command: str, **options: Any) -> Any:
        answer = parse(self, connection, command, **options)
        if command in lost:
            lost.remove(command)
            raise redis.exceptions.ConnectionError("the answer is lost")
        return answer

    monkeypatch.setattr(redis.Redis, "parse_response", read)
    return lost.append


@pytest.fixture
def unsettled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process dies between its work and the keeping of its answer."""
    monkeypatch.setattr(store.idempotency, "keep", lambda claim, _: store.idempotency.free(claim))


@pytest.fixture
def finish(store: Store) -> Callable[[str], Decision]:
    """Finishes a deliberation as the workers would."""
    return lambda id: finish_in(store, id)


def finish_in(store: Store, id: str) -> Decision:
    deliberations = store.deliberations
    task = deliberations.task(id)
    failure = Failure(type="EngineTimeout", message="no answer")
    decision = Decision(
        deliberation_id=id,
        task=task,
        status=Status.FAILED,
        reason="no proposal",
        failures=(FailedAnswer(agent_id=task.agents[0], step="propose:0", failure=failure),),
        decided_at_ms=task.created_at_ms,
    )
    about = task.model_dump(include={"deliberation_id", "task_id", "role", "plan_id", "story_id"})
    opened = DeliberationStepped(**about, status="IN_PROGRESS", step=RECORD)
    deliberations.seal_step(id, "propose:0")
    deliberations.enter_step(id, "propose:0", RECORD, opened, decision)
    assert deliberations.finish(decision, [DeliberationFinished(**about, status="FAILED")])
    return decision


class Gunicorn(Process):
    """The API as it is served."""

    def __init__(self, folder: Path, valkey: ValkeyServer, **env: str):
        self.port = free_port()
        command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"), "fleet.api:create_app()"]
        base = {
            "FLEET_VALKEY_URL": valkey.url,
            "FLEET_API_BIND": f"127.0.0.1:{self.port}",
            "FLEET_API_KEY": KEY,
            "FLEET_NEO4J_URI": "bolt://127.0.0.1:1",
            "WEB_CONCURRENCY": "1",
        }
        super().__init__(command, folder / "gunicorn.log", env={**base, **env}, cwd=ROOT)

    def ready(self) -> bool:
        try:
            return self.alive and self.call("GET", "/livez").status == 200
        except OSError:
            return False

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        """The answer, its body unread."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **headers}
        connection.request(method, path, json.dumps(body) if isinstance(body, dict) else body, sent)
        return connection.getresponse()

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> "Reply":
        answer = self.request(method, path, body, **headers)
        return Reply(answer.status, dict(answer.getheaders()), answer.read())


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Gunicorn]]:
    """Starts the API: `serve(valkey, FLEET_API_KEY="")`."""
    with contextlib.ExitStack() as stack:

        def start(valkey: ValkeyServer, **env: str) -> Gunicorn:
            server = Gunicorn(tmp_path, valkey, **env)
            stack.callback(server.stop)
            server.start()
            return server

        yield start


@pytest.fixture(scope="module")
def served(shared_valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    """The API that a module's tests share, with 16 threads; not to be stopped."""
    server = Gunicorn(tmp_path_factory.mktemp("gunicorn"), shared_valkey)
    server.start()
    yield server
    server.stop()
