"""Models as responses."""

from flask import Response

from fleet.models import Model


def reply(model: Model, status: int = 200, location: str | None = None) -> Response:
    """Compact JSON; fields without a value are left out."""
    response = Response(model.dump(), status, mimetype="application/json")
    if location:
        response.headers["Location"] = location
    return response
