"""/v1/keys."""

from typing import Annotated

import structlog
from flask import Response
from pydantic import Field, StringConstraints

from fleet.api import problems
from fleet.api.idempotent import derived_id
from fleet.api.problems import Refused
from fleet.api.replies import no_content, reply
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.errors import Conflict, NotFound
from fleet.models import Model
from fleet.store.keys import ApiKey, Scope

log = structlog.get_logger(__name__)

keys = Section("keys", "Who may call this API, and for what")

KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:@-]{0,63}$")]


class ApiKeyRequest(Model):
    name: KeyName = Field(description="For people: who or what uses the key")
    scopes: tuple[Scope, ...] = Field(
        min_length=1, max_length=len(Scope), description="Each contains the ones before it: `read`, `submit`, `admin`"
    )


class NewApiKey(ApiKey):
    """A key with its text."""

    key: str = Field(description="To be sent as `Authorization: Bearer …`; shown here only")


class ApiKeyList(Model):
    items: tuple[ApiKey, ...]
    next_cursor: str | None = Field(None, description="Always absent: there is one page")


@keys.operation(
    "POST",
    "/keys",
    Operation(
        summary="Make a key",
        description="Only a hash of it is stored.",
        scope=Scope.ADMIN,
        secret=True,
        body=ApiKeyRequest,
        answers={201: Answer("The key, this once", NewApiKey)},
    ),
)
def create_key(body: ApiKeyRequest) -> Response:
    try:
        key, text = services().store.keys.create(body.name, body.scopes, derived_id("key", body.dump()))
    except Conflict:
        raise Refused(problems.ANSWERED_ONCE, problems.ANSWERED_ONCE.meaning) from None
    log.info("keys.created", made=key.key_id, name=key.name, scopes=key.scopes)
    return reply(NewApiKey(**key.model_dump(), key=text), 201)


@keys.operation(
    "GET",
    "/keys",
    Operation(
        summary="List the keys, without their texts",
        scope=Scope.ADMIN,
        answers={200: Answer("All keys, the oldest first", ApiKeyList)},
    ),
)
def list_keys() -> Response:
    return reply(ApiKeyList(items=tuple(services().store.keys.list())))


@keys.operation(
    "DELETE",
    "/keys/{key_id}",
    Operation(
        summary="Revoke a key",
        description="From the next request on, every replica refuses it.",
        answers={204: Answer("It is revoked", media_type=None)},
    ),
)
def revoke_key(key_id: str) -> Response:
    if not services().store.keys.revoke(key_id):
        raise NotFound("key", key_id)
    log.info("keys.revoked", revoked=key_id)
    return no_content()
