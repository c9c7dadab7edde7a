"""The header Idempotency-Key: within 24 hours a key stands for one request."""

import contextlib
from collections.abc import Iterator

from flask import request

from fleet.api import problems
from fleet.api.reading import IDEMPOTENCY_KEY, idempotency_key
from fleet.api.section import Header
from fleet.api.services import services
from fleet.errors import Conflict, InvalidRequest
from fleet.models import digest
from fleet.store.idempotency import Claim

HEADER = Header(
    IDEMPOTENCY_KEY,
    "Within 24 hours the same key with the same body does nothing twice; with another body it is refused (422)",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
)


@contextlib.contextmanager
def claimed(content: str) -> Iterator[str | None]:
    """Binds the request's key, which it gives, to this path and content; a request that is refused frees it again.

    Raises: Refused (422) when the key is invalid or stands for another request.
    """
    key = idempotency_key()
    claim = services().store.idempotency.claim(key, digest([request.path, content])) if key else None
    if claim is Claim.OTHER:
        raise problems.Refused(problems.KEY_REUSED, f"the key {key} stands for another request")
    try:
        yield key
    except (Conflict, InvalidRequest):
        if key and claim is Claim.NEW:
            services().store.idempotency.release(key)
        raise
