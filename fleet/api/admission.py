"""Whether a request for work may be carried out now, and whether what it changed is kept."""

from collections.abc import Callable

from flask import after_this_request, g, make_response
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response

from fleet.api import problems
from fleet.api.problems import Refused
from fleet.api.services import services
from fleet.store.admission import Allowance


def limit_rate() -> None:
    """Counts the request against its key's limit, if there is one. Raises: Refused (429)."""
    limit = services().settings.rate_limit_per_minute
    if not limit:
        return
    found = services().store.rate_limits.take(g.caller.key_id, limit)
    headers = _headers(found)
    if not found.allowed:
        detail = f"this key may send {limit} requests for work a minute"
        raise Refused(problems.RATE_LIMITED, detail, headers={**headers, "Retry-After": str(found.retry_s)})

    @after_this_request
    def tell(response: Response) -> Response:
        response.headers.update(headers)
        return response


def _headers(found: Allowance) -> dict[str, str]:
    """As the IETF's draft on RateLimit header fields has them."""
    return {
        "RateLimit-Policy": f'"work";q={found.limit};w=60',
        "RateLimit": f'"work";r={found.left};t={found.reset_s}',
    }


def kept(view: Callable[[], ResponseReturnValue]) -> ResponseReturnValue:
    """What the view answers, once what it wrote is as durable as FLEET_DURABILITY asks for.

    Raises: NotKept; without having called the view when that is known beforehand.
    """
    durability = services().store.durability
    durability.check()
    answer = make_response(view())
    durability.confirm()
    return answer
