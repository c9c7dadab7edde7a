import json
import re
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import validate

from fleet.api import create_app
from fleet.settings import Settings


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(Settings())


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    found: dict[str, Any] = app.test_client().get("/openapi.json").get_json()
    return found


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    validate(document)


def test_the_document_has_every_route_and_no_other(app: Flask, document: dict[str, Any]) -> None:
    routes = {
        (re.sub(r"<(.+?)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == {(path, method) for path, methods in document["paths"].items() for method in methods}


def test_every_operation_has_a_name_of_its_own_and_says_what_it_needs(document: dict[str, Any]) -> None:
    operations = [(path, one) for path, methods in document["paths"].items() for one in methods.values()]
    assert len({one["operationId"] for _, one in operations}) == len(operations)
    for path, one in operations:
        scopes = [scope for needed in one["security"] for scope in needed["key"]]
        assert len(scopes) == (path.startswith("/v1/") or path == "/metrics")
        assert set(scopes) <= {"read", "submit", "admin"}
        named = {parameter["name"] for parameter in one.get("parameters", []) if parameter["in"] == "path"}
        assert named == set(re.findall(r"{(.+?)}", path))


def test_every_operation_that_needs_a_key_names_its_problems(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for one in methods.values():
            if path.startswith("/v1/"):
                assert {"401", "403", "422", "503"} <= set(one["responses"])
            if "requestBody" in one:
                assert {"413", "415"} <= set(one["responses"])


def test_every_schema_that_is_referred_to_is_there_and_every_one_there_is_referred_to(document: dict[str, Any]) -> None:
    referred = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert referred == set(document["components"]["schemas"])


def test_the_page_brings_everything_with_it_and_names_every_path(app: Flask, document: dict[str, Any]) -> None:
    answer = app.test_client().get("/docs")
    page = answer.get_data(as_text=True)
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert not re.search(r"(src|href)=\"(https?:|//)|@import|url\(|<script", page)
    for path in document["paths"]:
        assert f">{path}<" in page


def test_every_link_of_the_page_leads_somewhere(app: Flask) -> None:
    page = app.test_client().get("/docs").get_data(as_text=True)
    targets = re.findall(r'href="#(.+?)"', page)
    assert set(targets) <= set(re.findall(r'id="(.+?)"', page))
    assert targets
