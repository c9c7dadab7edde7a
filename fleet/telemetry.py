"""Logs: one event per line on stderr, as JSON or for people, with the ids of what is being worked on and no secrets.

Everything goes through one formatter: Fleet's own events, Celery's and gunicorn's records, warnings, and exceptions
that nobody caught. What a request or an event is about is bound where it comes in, and travels with the tasks that it
causes in a header of their messages.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from fleet.masking import Mask, secrets_of
from fleet.settings import Settings, settings_or_exit

HEADER = "log_context"
CARRIED = ("request_id", "plan_id", "story_id", "task_id", "role")  # a task knows its other ids from its arguments
MANY_LINES = ("exception", "stack")
# Control characters, ends of lines, marks that turn the direction of writing, and what is no character at all.
_STEERS = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
QUIET = ("httpx", "httpx2", "neo4j", "kombu", "amqp")

log = structlog.get_logger(__name__)
# One list for good: a logger keeps the one that it found when it was first used.
_processors: list[Processor] = []


def configure(process: str = "cli") -> None:
    """Sends all logs of this process, and of those it forks, through one formatter. What is said last counts.

    `process` is what every event says it comes from: worker, api, listener, flower.
    """
    settings = settings_or_exit()
    _processors[:] = [
        structlog.stdlib.filter_by_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        *_shared(process, settings),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ]
    structlog.configure(
        processors=_processors,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(process))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for noisy in QUIET:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    _catch_the_rest()


def formatter(process: str) -> logging.Formatter:
    """From the records of `process` to lines, also where the logging is set up by somebody else."""
    settings = settings_or_exit()
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_task_of, *_shared(process, settings)], processors=_final(settings)
    )


def _shared(process: str, settings: Settings) -> list[Processor]:
    """What is added to every event, whoever logged it."""
    people = settings.log_format == "console"
    when = structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people)
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        when,
        *([] if people else [_whence(process)]),
    ]


def _final(settings: Settings) -> list[Processor]:
    """From an event to its line. Exceptions become text before secrets are hidden in it."""
    console: list[Processor] = [_one_line, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    json: list[Processor] = [structlog.processors.JSONRenderer(ensure_ascii=False), _escape_line]
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _hide(Mask(secrets_of(settings))),
        *(console if settings.log_format == "console" else json),
    ]


def _one_line(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Nothing in an event can steer a terminal or look like another event; an exception's lines are indented."""
    return {_escaped(key): _in_console(key, value) for key, value in event.items()}


def _in_console(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return "\n  ".join(map(_escaped, value.splitlines())) if key in MANY_LINES else _escaped(value)


def _escape_line(_logger: WrappedLogger, _name: str, line: Any) -> Any:
    """In JSON, what steers a terminal can only stand inside of texts."""
    return _escaped(line)


def _escaped(text: str) -> str:
    return _STEERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _whence(process: str) -> Processor:
    def add(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        return {**event, "process": process, "pid": os.getpid()}

    return add


def _hide(mask: Mask) -> Processor:
    def hide(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        return {key: mask.entry(key, value) for key, value in event.items()}

    return hide


def _task_of(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Celery's records of a task hold its id and name aside: those of the consumer's thread have no context."""
    data = getattr(event["_record"], "data", None)
    if isinstance(data, dict) and "id" in data and "name" in data:
        return {**event, "celery_task_id": data["id"], "task": data["name"]}
    return event


def _catch_the_rest() -> None:
    """Warnings and what ends a process or a thread are events as well."""
    logging.captureWarnings(True)
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed


def _thread_crashed(found: threading.ExceptHookArgs) -> None:
    if found.exc_type is not SystemExit:  # which ends a thread, as Python's own hook has it
        _crashed(found.exc_type, found.exc_value, found.exc_traceback)


def _crashed(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, Exception) and error:
        log.critical("crashed", exc_info=error, thread=threading.current_thread().name)
    else:
        sys.__excepthook__(kind, error or kind(), trace)


def carried() -> dict[str, dict[str, Any]]:
    """The header that hands what is bound here on to a task, empty when nothing is."""
    bound = structlog.contextvars.get_contextvars()
    found = {name: bound[name] for name in CARRIED if bound.get(name)}
    return {HEADER: found} if found else {}


def bind_task(request: Any, about: Mapping[str, Any]) -> None:
    """Binds what a task's message carried, and what its arguments say, in place of what was bound before."""
    ids = {**(getattr(request, HEADER, None) or {}), **about}
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(
        celery_task_id=request.id, **{name: ids[name] for name in CARRIED if ids.get(name)}
    )
