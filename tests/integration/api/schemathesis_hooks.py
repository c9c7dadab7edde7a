"""What schemathesis's configuration cannot say."""

import itertools
from typing import Any

import schemathesis

KEY = "Idempotency-Key"
_fresh = itertools.count()


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Any) -> None:  # noqa: ARG001
    """No schema can say that an Idempotency-Key was used before: what should be accepted has a new one."""
    if case.meta and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE and KEY in case.headers:
        case.headers[KEY] = f"{case.headers[KEY][:200]}-{next(_fresh)}"
