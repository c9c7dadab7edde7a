"""/openapi.json and /docs."""

from typing import Any, cast

from flask import Response, current_app, jsonify, render_template

from fleet.api import openapi
from fleet.api.problems import KINDS
from fleet.api.section import Answer, Operation, Section

docs = Section("docs", "This API, for programs and for people", prefix=None)

# The page brings everything it needs; the policy holds it to that.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_BOUNDS = {
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "minLength": "≥ {} characters",
    "maxLength": "≤ {:,} characters",
    "maxItems": "≤ {} items",
    "maxProperties": "≤ {} entries",
    "pattern": "{}",
}


@docs.operation(
    "GET",
    "/openapi.json",
    Operation(
        summary="This API as OpenAPI 3.1", query=None, public=True, answers={200: Answer("The OpenAPI document")}
    ),
)
def openapi_document() -> Response:
    return jsonify(_document())


@docs.operation(
    "GET",
    "/docs",
    Operation(
        summary="This API as a page", query=None, public=True, answers={200: Answer("The page", media_type="text/html")}
    ),
)
def docs_page() -> Response:
    document = _document()
    page = render_template(
        "docs.html",
        document=document,
        groups=_by_tag(document),
        kinds=KINDS,
        type_of=type_of,
        bounds_of=bounds_of,
        referred=_referred,
    )
    return Response(page, mimetype="text/html", headers={"Content-Security-Policy": _POLICY})


def _document() -> openapi.Document:
    return openapi.build(cast(Any, current_app)._get_current_object())


def _by_tag(document: openapi.Document) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups[operation["tags"][0]].append({"method": method.upper(), "path": path, **operation})
    return groups


def type_of(schema: dict[str, Any]) -> str:
    """A schema in a few words: "Role", "list of string", "integer or null"."""
    if name := _referred(schema):
        return name
    if "anyOf" in schema:
        return " or ".join(map(type_of, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return " | ".join(f'"{value}"' for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    values = schema.get("additionalProperties")
    return f"map to {type_of(values)}" if isinstance(values, dict) else str(schema.get("type", "any"))


def bounds_of(schema: dict[str, Any]) -> str:
    """What limits a value: "≥ 1, ≤ 200, 50 unless given"."""
    parts = [part for part in (schema, *schema.get("anyOf", ())) if isinstance(part, dict)]
    texts = [text.format(part[name]) for part in parts for name, text in _BOUNDS.items() if name in part]
    default = schema.get("default")
    return ", ".join(texts + ([f"{default} unless given"] if default not in (None, "", [], {}) else []))


def _referred(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]
