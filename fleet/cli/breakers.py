"""What `fleet doctor` says about the servers that engines ask."""

from collections.abc import Mapping
from typing import Any

REMEDY = (
    "start it, or check FLEET_ENGINE_URL and FLEET_ENGINE_KEY of the agents' workers; work waits, and goes on by itself"
)


def looked_at(breaker: Mapping[str, Any]) -> tuple[str, bool, str, str]:
    """Name, whether it is well, state and remedy."""
    closed = breaker["state"] == "closed"
    waiting = breaker["waiting"]
    many = "1 deliberation waits" if waiting == 1 else f"{waiting} deliberations wait"
    state = "answers" if closed else f"{many} for it: {breaker.get('reason')}"
    return f"server {breaker['endpoint']}", closed, state, REMEDY
