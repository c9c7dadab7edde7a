"""The scripted engine: no model, the same answer to the same question. For tests, benchmarks and demonstrations only.

It reads the request's JSON schema and fills it. What an agent does is its behaviour, chosen by a pattern of its id:

    normal       a sound proposal: an artifact that parses, the task's requirements named
    excellent    as normal, with every requirement in the artifact too, and high confidence
    poor         valid JSON, near-empty, its artifact does not parse, low confidence
    verbose      as normal, and long
    concise      as normal, in few words
    error-prone  raises EngineError for about half of its questions: those whose seed (below) starts with an even byte
    slow         as normal, `slow_s` seconds later
    silent       never answers: EngineTimeout after `timeout_s` seconds

Whatever it chooses it chooses by a seed: SHA-256 of behaviour, role, agent_id, phase, round and task, as a JSON array
of texts. The task is `tags["task"]`, or else the last message of the user. The requirements are `tags["requirements"]`,
a list of texts, or else the lines with a dash in that message, up to a "</task>". A ranking orders `tags["candidates"]`
(label → proposal) by what `scripted_artifacts.quality` sees in them, best first, equal ones by the seed.
"""

import hashlib
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

from fleet.engines.base import Completion, Generation
from fleet.engines.config import EngineConfig
from fleet.engines.conform import UnsupportedSchema, conform
from fleet.engines.scripted_answers import Author, requirements_of
from fleet.errors import EngineCancelled, EngineError, EngineTimeout, InvalidRequest
from fleet.settings import Behaviour

BEHAVIOURS = get_args(Behaviour)
_CHARS_PER_TOKEN = 4
_PIECES = 8


def check_behaviours(behaviours: Mapping[str, str]) -> None:
    """Raises InvalidRequest for every behaviour that is none of `BEHAVIOURS`."""
    faults: list[tuple[tuple[str | int, ...], str]] = [
        (("scripted_behaviours", pattern), f"unknown behaviour {name!r}; known: {', '.join(BEHAVIOURS)}")
        for pattern, name in behaviours.items()
        if name not in BEHAVIOURS
    ]
    if faults:
        raise InvalidRequest(faults)


class ScriptedEngine:
    """Answers from the schema alone, in no time unless told otherwise. Thread-safe."""

    name = "scripted"

    def __init__(self, config: EngineConfig):
        check_behaviours(config.behaviours)
        self._behaviours = dict(config.behaviours)
        self._latency_s, self._slow_s = config.latency_s, config.slow_s
        self._model = config.model or "scripted"
        self._closed, self._ended = False, threading.Condition()

    def behaviour_of(self, agent_id: str) -> str:
        """The behaviour of the first pattern that matches, or "normal"."""
        matches = (name for pattern, name in self._behaviours.items() if fnmatchcase(agent_id, pattern))
        return next(matches, "normal")

    def generate(self, request: Generation) -> Completion:
        if request.adapter:
            raise EngineError(self.name, f"it has no adapters: {request.adapter!r} was asked for")
        started = time.monotonic()
        behaviour = self.behaviour_of(str(request.tags.get("agent_id", "")))
        seed = seed_of(behaviour, request)
        fails = behaviour == "error-prone" and seed[0] % 2 == 0
        text = "" if fails else json.dumps(self._answer(behaviour, request, seed), ensure_ascii=False)
        allowed = request.max_tokens * _CHARS_PER_TOKEN
        first_ms = self._write(text[:allowed], request, started, self._seconds(behaviour))
        if fails:
            raise EngineError(self.name, "this error-prone agent fails this question")
        return Completion(
            text=text[:allowed],
            finish_reason="stop" if len(text) <= allowed else "length",
            model=self._model,
            prompt_tokens=sum(_tokens(message.content) for message in request.messages),
            completion_tokens=_tokens(text[:allowed]),
            latency_ms=_ms_since(started),
            first_token_ms=first_ms,
        )

    def close(self) -> None:
        """Ends every wait at once; who waits gets an EngineError that is worth trying again."""
        self._closed = True
        self._wake()

    def _seconds(self, behaviour: str) -> float:
        """What an answer takes."""
        seconds = math.inf if behaviour == "silent" else self._latency_s
        return seconds + (self._slow_s if behaviour == "slow" else 0)

    def _write(self, text: str, request: Generation, started: float, seconds: float) -> int:
        """Says the text in pieces of whole tokens over these seconds; returns when the first one came, in ms."""
        if seconds:
            request.cancellation.when_set(self._wake)
        pieces = _pieces(text)
        first_ms = 0
        for number, piece in enumerate(pieces, 1):
            self._wait(request, started, seconds * number / len(pieces))
            first_ms = first_ms or _ms_since(started)
            if request.on_text and piece:
                request.on_text(piece, _tokens(piece))
        return first_ms

    def _wait(self, request: Generation, started: float, seconds: float) -> None:
        """Waits until so many seconds after the start."""
        left = started + min(seconds, request.timeout_s) - time.monotonic()
        with self._ended:
            self._ended.wait_for(lambda: self._closed or request.cancellation.is_set(), max(0.0, left))
        if request.cancellation.is_set():
            raise EngineCancelled(self.name, "the request was cancelled")
        if self._closed:
            raise EngineError(self.name, "the engine is closed", True)
        if seconds > request.timeout_s:
            raise EngineTimeout(self.name, f"no answer within {request.timeout_s:g} s", True)

    def _wake(self) -> None:
        with self._ended:
            self._ended.notify_all()

    def _answer(self, behaviour: str, request: Generation, seed: bytes) -> Any:
        def pick(options: Sequence[Any], path: str) -> Any:
            digest = hashlib.sha256(seed + path.encode()).digest()
            return options[int.from_bytes(digest[:8], "big") % len(options)]

        requirements = requirements_of(request.tags, _prompt(request), task_of(request))
        author = Author(behaviour, request.tags, requirements, pick)
        try:
            return conform(request.schema, author.wish(request.schema), pick)
        except UnsupportedSchema as error:
            raise EngineError(self.name, f"cannot fill the schema: {error}") from error


def seed_of(behaviour: str, request: Generation) -> bytes:
    """The 32 bytes on which an answer depends."""
    tags = (str(request.tags.get(key, "")) for key in ("role", "agent_id", "phase", "round"))
    return hashlib.sha256(json.dumps([behaviour, *tags, task_of(request)]).encode()).digest()


def task_of(request: Generation) -> str:
    """The task as the seed sees it."""
    return str(request.tags.get("task") or _prompt(request))


def _prompt(request: Generation) -> str:
    return next((message.content for message in reversed(request.messages) if message.role == "user"), "")


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _pieces(text: str) -> list[str]:
    """The text in at most `_PIECES` parts of whole tokens; one that is empty if it is."""
    size = max(1, math.ceil(_tokens(text) / _PIECES)) * _CHARS_PER_TOKEN
    return [text[at : at + size] for at in range(0, max(1, len(text)), size)]


def _tokens(text: str) -> int:
    return math.ceil(len(text) / _CHARS_PER_TOKEN)
