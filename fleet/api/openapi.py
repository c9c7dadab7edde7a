"""The API's OpenAPI 3.1 document, made from its routes and models."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from flask import Flask
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

import fleet
from fleet.api.problems import ANSWERED_ONCE, BUSY, KEY_REUSED, KINDS, MEDIA_TYPE, NOT_KEPT, Problem
from fleet.api.section import IDEMPOTENT, Answer, Operation, Section
from fleet.models import Model

Document = dict[str, Any]

# What a body without a model is; of a stream, each event.
_BODIES: Mapping[str, Any] = {
    "application/json": {"type": "object"},
    "text/event-stream": {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
        "required": ["event", "data"],
    },
}
_TEMPLATE = "#/components/schemas/{model}"
_INFO = """Councils of agents deliberate on approved plans.

Every error is `application/problem+json` (RFC 9457). A request whose answer was lost may be sent again: the same plan,
or the same `Idempotency-Key`, does nothing twice. A 429 or 503 says in `Retry-After` when to send it again, and where
keys have a limit, `RateLimit` says what is left of it. Bodies are JSON in UTF-8, at most 1 MiB; unknown fields and
parameters are refused. A request's `X-Request-Id` comes back with the answer and is in the log."""

_KEY = """`FLEET_API_KEY`, which may do everything, or a key made by `POST /v1/keys`. An operation lists the scope that
it needs; `submit` contains `read`, and `admin` contains both."""


@lru_cache(maxsize=1)
def build(app: Flask) -> Document:
    """The document for all sections of `app`, made once; not to be changed."""
    routes = list(operations(app))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fleet", "version": fleet.__version__, "description": _INFO},
        "tags": [{"name": section.name, "description": section.description} for section in _sections(app)],
        "paths": _paths(routes),
        "components": {
            "schemas": _schemas(routes),
            "responses": {"Problem": _problem("The request was not carried out")},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": _KEY}},
        },
    }


def operations(app: Flask) -> Iterator[tuple[Rule, Section, Operation]]:
    """Every documented route; the others have no `Section`."""
    for rule in app.url_map.iter_rules():
        section = app.blueprints.get(rule.endpoint.partition(".")[0])
        if isinstance(section, Section):
            yield rule, section, section.operations[rule.endpoint]


def path_of(rule: Rule) -> str:
    """`/v1/plans/{plan_id}` for `/v1/plans/<plan_id>`."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)


def methods_of(rule: Rule) -> set[str]:
    return {method.lower() for method in (rule.methods or ()) if method not in ("HEAD", "OPTIONS")}


def _sections(app: Flask) -> Iterator[Section]:
    return (section for section in app.blueprints.values() if isinstance(section, Section))


def _paths(routes: list[tuple[Rule, Section, Operation]]) -> Document:
    paths: Document = {}
    for rule, section, operation in sorted(routes, key=lambda route: route[0].rule):
        for method in methods_of(rule):
            paths.setdefault(path_of(rule), {})[method] = _operation(rule, section, operation)
    return paths


def _operation(rule: Rule, section: Section, operation: Operation) -> Document:
    document: Document = {
        "operationId": rule.endpoint.partition(".")[2],
        "tags": [section.name],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": list(_parameters(rule, operation)),
        "responses": _responses(rule, operation),
        "security": [] if operation.public else [{"key": [operation.scope]}],
    }
    if operation.body:
        content = {"application/json": {"schema": _reference(operation.body)}}
        document["requestBody"] = {"required": True, "content": content}
    return {name: value for name, value in document.items() if value != "" and (value or name == "security")}


def _parameters(rule: Rule, operation: Operation) -> Iterator[Document]:
    for name in sorted(rule.arguments):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    schema = operation.query.model_json_schema(ref_template=_TEMPLATE) if operation.query else {}
    for name, property in schema.get("properties", {}).items():
        description = {"description": text} if (text := property.pop("description", "")) else {}
        required = name in schema.get("required", ())
        yield {"name": name, "in": "query", "required": required, **description, "schema": _not_null(property)}
    for header in operation.headers:
        yield {"name": header.name, "in": "header", "description": header.description, "schema": dict(header.schema)}


def _not_null(schema: Document) -> Document:
    """The schema without null, which a query cannot say: the parameter is left out instead."""
    kinds = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else {name: value for name, value in schema.items() if name != "title"}


def _responses(rule: Rule, operation: Operation) -> Document:
    responses = {str(status): _answer(answer) for status, answer in operation.answers.items()}
    rare = {BUSY} | (set() if IDEMPOTENT in operation.headers else {KEY_REUSED})
    rare |= set() if operation.secret else {ANSWERED_ONCE}
    rare |= {NOT_KEPT} if "get" in methods_of(rule) else set()
    for status in sorted(_problems(rule, operation)):
        titles = [kind.title for kind in KINDS if kind.status == status and kind not in rare]
        responses.setdefault(str(status), _problem(" · ".join(titles)))
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    return responses


def _problems(rule: Rule, operation: Operation) -> set[int]:
    """The problems that the operation can answer, by what it takes."""
    if operation.public:
        return set(operation.problems)
    found = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY, *operation.problems}
    found |= {HTTPStatus.SERVICE_UNAVAILABLE}
    found |= {HTTPStatus.NOT_FOUND} if rule.arguments else set()
    found |= {HTTPStatus.CONFLICT} if operation.secret else set()
    found |= {HTTPStatus.TOO_MANY_REQUESTS} if operation.submits else set()
    if operation.body:
        found |= {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
    return {int(status) for status in found}


def _answer(answer: Answer) -> Document:
    document: Document = {"description": answer.description}
    if answer.model:
        document["content"] = {answer.media_type: {"schema": _reference(answer.model)}}
    elif answer.media_type:
        schema = _BODIES.get(answer.media_type, {"type": "string"})
        document["content"] = {answer.media_type: {"schema": schema}}
    if answer.location:
        document["headers"] = {"Location": {"schema": {"type": "string", "format": "uri-reference"}, "required": True}}
    return document


def _problem(description: str) -> Document:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": _reference(Problem)}}}


def _reference(model: type[Model]) -> Mapping[str, str]:
    return {"$ref": _TEMPLATE.format(model=model.__name__)}


def _schemas(routes: list[tuple[Rule, Section, Operation]]) -> Document:
    """The schema of every model that is referred to. Fields with a default may be absent from answers, too."""
    queries = {operation.query for _, _, operation in routes if operation.query}
    models = {operation.body for _, _, operation in routes if operation.body} | queries | {Problem}
    models |= {answer.model for _, _, operation in routes for answer in operation.answers.values() if answer.model}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, document = models_json_schema([(model, "validation") for model in ordered], ref_template=_TEMPLATE)
    inlined = {query.__name__ for query in queries}
    return {name: schema for name, schema in sorted(document["$defs"].items()) if name not in inlined}
