"""Routes that say what they take and what they answer; reading requests and /openapi.json both go by it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, TypeVar

from flask import Blueprint, current_app, request
from flask.typing import ResponseReturnValue

from fleet.api.admission import kept, limit_rate
from fleet.api.idempotent import answered_once
from fleet.api.reading import IDEMPOTENCY_KEY, read_body, read_query
from fleet.models import Model
from fleet.store.keys import Scope

V = TypeVar("V", bound=Callable[..., ResponseReturnValue])

_SCOPES = {"GET": Scope.READ, "POST": Scope.SUBMIT}


class NoParameters(Model):
    """A query without parameters: any is refused, so that a misspelt one is noticed."""


@dataclass(frozen=True, slots=True)
class Header:
    """A request header that an operation reads."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: a model as JSON, else `media_type`, or no content at all."""

    description: str
    model: type[Model] | None = None
    media_type: str | None = "application/json"
    location: bool = False


IDEMPOTENT = Header(
    IDEMPOTENCY_KEY,
    "Within 24 hours, the same key with the same body gets the same answer (when that is over 2 KiB, its status and "
    "Location with what was made as it is now), and nothing is done twice; with another body it is refused (422). A "
    "request that is refused frees its key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
)


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route is for. `query` None takes any parameters; `problems` are those beyond what the rest implies.

    Without a `scope`, reading needs `read`, a POST `submit`, and anything else `admin`; `public` needs no key at all.
    One that `submits` work may be refused for what there is already, and counts against its key's limit (429).
    An answer with a `secret` is not kept: asked for again with its Idempotency-Key, it is refused (409).
    """

    summary: str
    answers: Mapping[int, Answer]
    description: str = ""
    query: type[Model] | None = NoParameters
    body: type[Model] | None = None
    headers: tuple[Header, ...] = ()
    problems: tuple[int, ...] = ()
    public: bool = False
    scope: Scope | None = None
    secret: bool = False
    submits: bool = False


class Section(Blueprint):
    """A group of operations."""

    def __init__(self, name: str, description: str, prefix: str | None = "/v1"):
        super().__init__(name, __name__, url_prefix=prefix)
        self.description = description
        self.operations: dict[str, Operation] = {}

    def operation(self, method: str, path: str, operation: Operation) -> Callable[[V], V]:
        """Registers a view, which gets the path's ids, and `query` and `body` where the operation has them.

        Every POST takes an Idempotency-Key.
        """
        headers = (*operation.headers, IDEMPOTENT) if method == "POST" else operation.headers
        scope = operation.scope or _SCOPES.get(method, Scope.ADMIN)
        operation = replace(operation, scope=scope, headers=headers)

        def register(view: V) -> V:
            name = view.__name__
            self.operations[f"{self.name}.{name}"] = operation
            self.add_url_rule(
                path.replace("{", "<").replace("}", ">"),
                name,
                _reader(_durable(view, method), operation),
                methods=[method],
            )
            return view

        return register


def current_operation() -> Operation | None:
    """The operation that the current request is for; None for a path or method that there is not."""
    section = current_app.blueprints.get(request.blueprint or "")
    return section.operations.get(request.endpoint or "") if isinstance(section, Section) else None


def _durable(view: Callable[..., ResponseReturnValue], method: str) -> Callable[..., ResponseReturnValue]:
    """The view, which answers what changes something only once that is durable."""
    if method == "GET":
        return view

    @wraps(view)
    def call(**arguments: Any) -> ResponseReturnValue:
        return kept(partial(view, **arguments))

    return call


def _reader(view: Callable[..., ResponseReturnValue], operation: Operation) -> Callable[..., ResponseReturnValue]:
    @wraps(view)
    def call(**arguments: Any) -> ResponseReturnValue:
        if operation.submits:
            limit_rate()
        if operation.query is NoParameters:
            read_query(NoParameters)
        elif operation.query:
            arguments["query"] = read_query(operation.query)
        if operation.body:
            arguments["body"] = read_body(operation.body)
        if IDEMPOTENT in operation.headers:
            return answered_once(partial(view, **arguments), arguments.get("body"), secret=operation.secret)
        return view(**arguments)

    return call
