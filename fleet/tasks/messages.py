"""What a worker does with a message that is no task of its own: a dead letter, acknowledged, and nothing runs."""

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog
from celery.worker import consumer
from celery.worker.control import Panel
from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError

from fleet.errors import UnknownFormat
from fleet.models import FORMAT_HEADER, check_format
from fleet.settings import get_settings
from fleet.store import Store

log = structlog.get_logger(__name__)

SOURCE = "celery"
RETRY_S = 5
MOST_CHARS = 100_000  # of a message in its letter
_LISTS = ("callbacks", "errbacks", "chain")

# An election of the gossip lets whoever may publish to a worker have it sign and publish any task.
Panel.data.pop("election", None)


class Refused(Exception):
    """Why a message is no task of this worker's."""


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Celery's, with dead letters where Celery logs and forgets, or ends.

    Whatever it cannot keep because ValKey is away or full stays unacknowledged, and is tried again.
    """

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        """Celery's, without its gossip."""

        default_steps = [step for step in consumer.Consumer.Blueprint.default_steps if not step.endswith(":Gossip")]

    @functools.cached_property
    def _store(self) -> Store:
        return Store.from_settings(get_settings())

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            try:
                check(self.app, message)
                handle(message)
            except Refused as refused:
                self._bury(message, str(refused))
            except (*self.connection_errors, *self.channel_errors):
                raise
            except Exception as error:
                log.exception("message.not_handled")
                self._bury(message, f"it cannot be handled: {error!r}")

        return on_task_received

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002
        self._bury(message, "it is no task")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002
        self._bury(message, f"there is no task {exc} here")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002
        self._bury(message, f"it is no valid task: {exc}")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._bury(message, f"it cannot be read: {exc}")

    def stop(self) -> None:
        super().stop()
        if "_store" in self.__dict__:
            self._store.close()

    def _bury(self, message: Any, reason: str) -> None:
        if message.acknowledged:
            return
        try:
            letter = self._store.dead_letters.add(SOURCE, _short(reason), as_text(message))
        except RedisError as error:
            log.warning("message.not_buried", reason=str(error), again_in_s=RETRY_S)
            self.timer.call_after(RETRY_S, self._bury, (message, reason))
            return
        log.error("message.buried", reason=letter.reason, dead_letter_id=letter.dead_letter_id)
        message.ack_log_error(log, self.connection_errors)


def check(app: Any, message: Any) -> None:
    """Raises: Refused when the message is not wholly what a task of this worker is called with."""
    name, id = message.headers.get("task"), message.headers.get("id")
    if not isinstance(name, str) or not isinstance(id, str):
        raise Refused("it has no task's name and id in its headers")
    if name not in app.tasks:
        raise Refused(f"there is no task {_short(name, 200)!r} here")
    try:
        check_format(message.headers.get(FORMAT_HEADER))
    except UnknownFormat as error:
        raise Refused(f"{name}: {error}") from None
    if message.content_type != "application/json" or str(message.content_encoding).lower() != "utf-8":
        raise Refused(f"{name}: its content is {message.content_type}, {message.content_encoding}, and not JSON")
    body = _body(name, message)
    if app.message_signer and not app.message_signer.accepts(message):
        raise Refused(f"{name}: it has no signature of one of the keys in FLEET_TASK_SIGNING_KEY")
    if faults := "; ".join(_faults(app.tasks[name], body)):
        raise Refused(f"{name}: {faults}")


def _body(name: str, message: Any) -> Any:
    try:
        return message.payload
    except Exception as error:
        raise Refused(f"{name}: its body cannot be read: {error}") from error


def _faults(task: Any, body: Any) -> Iterator[str]:
    match body:
        case [list() as args, dict() as kwargs, dict() as embed]:
            yield from (f"{name} is no list" for name in _LISTS if not isinstance(embed.get(name), list | None))
            if not isinstance(embed.get("chord"), dict | None):
                yield "chord is no signature"
            yield from _misfits(task, args, kwargs)
        case _:
            yield "its body is not a list of arguments, named arguments and what follows it"


def _misfits(task: Any, args: list[Any], kwargs: Mapping[str, Any]) -> Iterator[str]:
    """How the arguments differ from what the task takes."""
    signature = _signature(task.run)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        yield str(error)
        return
    for name, value in given.items():
        if (kind := signature.parameters[name].annotation) is not inspect.Parameter.empty:
            try:
                _adapter(kind).validate_python(value, strict=True)
            except ValidationError as error:
                first = error.errors()[0]
                yield f"{'.'.join(map(str, (name, *first['loc'])))}: {first['msg']}"


@functools.cache
def _signature(run: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(run, eval_str=True)


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def as_text(message: Any) -> str:
    """The message as JSON, as far as it is text; one that has nothing but a body is that body."""
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode(errors="replace")
    text = body[:MOST_CHARS].decode(errors="replace")
    headers = {name: value for name, value in message.headers.items() if name != "redelivered"}
    if not headers:
        return text
    found = {"content_type": message.content_type, "headers": headers, "body": text}
    return _short(json.dumps(found, ensure_ascii=False, default=repr).encode(errors="replace").decode(), 2 * MOST_CHARS)


def _short(text: str, most: int = 1000) -> str:
    text = text.encode(errors="replace").decode()
    return text if len(text) <= most else f"{text[:most]}…"
