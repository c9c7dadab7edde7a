"""/openapi.json and /docs."""

from flask import Response, current_app, jsonify, render_template

from fleet.api import openapi
from fleet.api.problems import KINDS
from fleet.api.section import Answer, Operation, Section

docs = Section("docs", "This API, for programs and for people", prefix=None)

# The page brings everything it needs; the policy holds it to that.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@docs.operation(
    "GET",
    "/openapi.json",
    Operation(
        summary="This API as OpenAPI 3.1", query=None, public=True, answers={200: Answer("The OpenAPI document")}
    ),
)
def openapi_document() -> Response:
    return jsonify(openapi.build(current_app))


@docs.operation(
    "GET",
    "/docs",
    Operation(
        summary="This API as a page", query=None, public=True, answers={200: Answer("The page", media_type="text/html")}
    ),
)
def docs_page() -> Response:
    page = render_template("docs.html", document=openapi.build(current_app), kinds=KINDS)
    return Response(page, mimetype="text/html", headers={"Content-Security-Policy": _POLICY})
