"""What schemathesis makes up from /openapi.json, valid and not: no 5xx and nothing that is not documented."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from celery import Celery
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as examples
from schemathesis import GenerationMode, checks

from fleet.api import create_app, openapi
from fleet.api.services import Services
from fleet.dispatch import Dispatcher
from fleet.settings import Settings
from tests.harness import Neo4jServer, ValkeyServer
from tests.integration.api.conftest import KEY

HEADERS = {"Authorization": f"Bearer {KEY}"}
# These take any query, and their only 5xx says that something is down, which is what they are for.
PROBES = ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json")
# A schema cannot say that subtasks have no cycle, that a cursor was given out or that a key was not used before.
BEYOND_SCHEMAS = [checks.positive_data_acceptance]
CASES = [
    (path, method.upper(), mode)
    for path, methods in openapi.build(create_app(Settings()))["paths"].items()
    for method in methods
    for mode in GenerationMode
    if path not in PROBES or mode is GenerationMode.POSITIVE
]


@pytest.fixture(scope="module")
def described(shared_valkey: ValkeyServer, neo4j_server: Neo4jServer, celery_app: Celery) -> Iterator[Any]:
    """The API on real servers, as it describes itself."""
    with shared_valkey.client() as client:
        client.flushall()
    user, password = neo4j_server.auth
    servers = {
        "valkey_url": shared_valkey.url,
        "neo4j_uri": neo4j_server.uri,
        "neo4j_user": user,
        "neo4j_password": password,
    }
    settings = Settings.model_validate({**servers, "nats_enabled": False, "engine": "scripted", "api_key": KEY})
    app = create_app(settings)
    services: Services = app.extensions["fleet"]
    services.dispatcher = Dispatcher(services.store, settings, celery_app)
    yield schemathesis.openapi.from_wsgi("/openapi.json", app)
    services.store.close()


@pytest.mark.parametrize(("path", "method", "mode"), CASES, ids=str)
def test_an_operation_keeps_to_its_description(described: Any, path: str, method: str, mode: GenerationMode) -> None:
    operation = described[path][method]

    @seed(1)
    @examples(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def keeps_to_it(case: schemathesis.Case) -> None:
        if path.endswith(("/events", "/tokens")):  # what is called here has to return
            case.query = {**(case.query or {}), "follow": "false"}
        if path in PROBES:
            case.call_and_validate(
                headers=HEADERS, checks=[checks.status_code_conformance, checks.response_schema_conformance]
            )
        else:
            case.call_and_validate(headers=HEADERS, excluded_checks=BEYOND_SCHEMAS)

    keeps_to_it()
