"""Whether the client of a request that takes long is still there."""

import select
from collections.abc import Callable

from flask import request

# Not every system tells of a closed connection before something is sent to it.
_CLOSED = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


def gone() -> Callable[[], bool]:
    """Tells, now or later, whether the current request's client has closed its side; always False without gunicorn."""
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        return lambda: False
    poll = select.poll()
    poll.register(connection.fileno(), _CLOSED)
    return lambda: bool(poll.poll(0))
