"""/livez and /readyz."""

from typing import Literal

from flask import Response

from fleet.api import problems
from fleet.api.readiness import Dependency, Readiness
from fleet.api.replies import reply
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.models import Model

health = Section("health", "For probes; needs no key", prefix=None)


class Liveness(Model):
    status: Literal["live"] = "live"


class NotReady(problems.Problem):
    """A problem that says which dependency is down."""

    ready: Literal[False]
    dependencies: dict[str, Dependency]


@health.operation(
    "GET",
    "/livez",
    Operation(
        summary="Is the process alive?",
        description="Depends on nothing else.",
        query=None,
        public=True,
        answers={200: Answer("It is", Liveness)},
    ),
)
def livez() -> Response:
    return reply(Liveness())


@health.operation(
    "GET",
    "/readyz",
    Operation(
        summary="Is everything up that the API needs?",
        description="Names each dependency and its state, at most a second old; NATS as the listeners see it.",
        query=None,
        public=True,
        answers={
            200: Answer("Everything is", Readiness),
            503: Answer("Something is down", NotReady, media_type=problems.MEDIA_TYPE),
        },
    ),
)
def readyz() -> Response:
    found = services().readiness()
    if found.ready:
        return reply(found)
    down = [f"{name}: {one.reason}" for name, one in found.dependencies.items() if one.state == "down"]
    return problems.answer(
        problems.UNAVAILABLE, "; ".join(down), extra=found.model_dump(mode="json", exclude_none=True)
    )
