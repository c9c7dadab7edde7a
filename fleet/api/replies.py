"""Models as responses."""

from flask import Response

from fleet.models import Model


def reply(model: Model, status: int = 200, location: str | None = None) -> Response:
    """Compact JSON; fields without a value are left out."""
    response = Response(model.dump(), status, mimetype="application/json")
    if location:
        response.headers["Location"] = location
    return response


def no_content() -> Response:
    """204: it is done, and there is nothing to say."""
    response = Response(status=204)
    response.headers.remove("Content-Type")
    return response
