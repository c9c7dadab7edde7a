"""Publishes what the parts of this process write, while they write it, for whoever listens at that moment."""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring
from typing import Any

import structlog
from redis.exceptions import RedisError

from fleet.engines.base import OnText
from fleet.events import TokensWritten, now
from fleet.models import Task, utf8
from fleet.store import Part, Store

log = structlog.get_logger(__name__)

INTERVAL_S = 0.05  # the longest that text waits here while somebody listens
UNHEARD_S = 0.25  # and while nobody does
MOST_TOKENS = 32  # of one message, but for what an engine gives at once
MOST_CHARS = 65_536  # that wait in one stream when ValKey does not take them; then they are dropped
_VARYING = {"timestamp", "type", "number", "text", "tokens", "position", "failed"}


class TokenStreams:
    """One thread per process publishes for all its parts at once; there is none while nothing runs."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A forked child has none of its parent's threads and runs none of its parts."""
        self._lock = threading.Lock()
        self._running: list[_Stream] = []
        self._thread: threading.Thread | None = None
        self._due = threading.Event()
        self._heard, self._away = True, False

    @contextlib.contextmanager
    def stream(self, part: Part, task: Task, store: Store, model: str | None = None) -> Iterator[OnText]:
        """What the engine is to call with each piece of the part's answer; it takes some microseconds.

        The block is one run of the part: its beginning and its end are told as well, and an exception from it as a
        failure. `model` is the one that is asked, if it is not the task's own.
        """
        about: dict[str, Any] = {"deliberation_id": part.deliberation_id, "agent_id": part.agent_id, "step": part.step}
        about |= {"story_id": task.story_id, "role": task.role, "model": model or task.adapter or task.model}
        stream = _Stream(about, self._hurry)
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._publish, args=(store,), name="tokens", daemon=True)
                thread.start()
                self._thread = thread
            self._running.append(stream)
        failed = True
        try:
            yield stream
            failed = False
        finally:
            stream.end(failed=failed)
            self._due.set()

    def _hurry(self) -> None:
        if self._heard:
            self._due.set()

    def _publish(self, store: Store) -> None:
        tick = time.monotonic()
        while True:
            self._due.wait(max(0.0, tick - time.monotonic()))
            self._due.clear()
            if everything := time.monotonic() >= tick:
                tick = time.monotonic() + (INTERVAL_S if self._heard else UNHEARD_S)
            with self._lock:
                running = list(self._running)
            self._tell(running, store, everything=everything)
            with self._lock:
                self._running = [stream for stream in self._running if not stream.told]
                if not self._running:
                    self._thread = None
                    return

    def _tell(self, running: "list[_Stream]", store: Store, *, everything: bool) -> None:
        """Messages that ValKey does not take are gone: they are worth nothing later."""
        try:
            at = now().isoformat().replace("+00:00", "Z")
            if messages := [message for stream in running for message in stream.take(at, everything=everything)]:
                self._heard = store.tokens.publish(messages) > 0
                self._away = False
        except RedisError as error:
            if not self._away:
                log.warning("tokens.dropped", reason=str(error))
            self._heard, self._away = False, True
        except Exception:
            log.exception("tokens.failed")


class _Stream:
    """What one run of a part has written and nobody was told yet. `told` once its end was on its way."""

    def __init__(self, about: dict[str, Any], hurry: Callable[[], None]):
        event = TokensWritten(type="start", stream=secrets.token_hex(8), number=0, position=0, **about)
        # Written by hand from here on: as models, the messages cost as much as all the rest together.
        self._head = event.model_dump_json(exclude=_VARYING, exclude_none=True)[:-1]
        self._deliberation_id, self._hurry = event.deliberation_id, hurry
        self._lock = threading.Lock()
        self._texts: list[str] = []
        self._chars = self._tokens = 0  # that wait
        self._position = self._number = 0
        self._failed: bool | None = None
        self._begun = self.told = False

    def __call__(self, text: str, tokens: int) -> None:
        with self._lock:
            if self._chars + len(text) > MOST_CHARS:
                self._pass_over()
            before = self._tokens
            self._texts.append(utf8(text))
            self._chars += len(text)
            self._tokens = before + tokens
        if before < MOST_TOKENS <= before + tokens:
            self._hurry()

    def end(self, *, failed: bool) -> None:
        with self._lock:
            self._failed = failed

    def take(self, at: str, *, everything: bool) -> list[tuple[str, str]]:
        """What is to be told at the time `at`: all that waits, or nothing before there is much of it."""
        with self._lock:
            if not (everything or self._tokens >= MOST_TOKENS or self._failed is not None):
                return []
            payloads = [] if self._begun else [self._payload(at, "start")]
            self._begun = True
            if text := "".join(self._texts):
                payloads.append(self._payload(at, "token", text, self._tokens))
                self._pass_over()
            if self._failed is not None:
                self._pass_over()
                payloads.append(self._payload(at, "complete", more=f',"failed":{json.dumps(self._failed)}'))
                self.told = True
            return [(self._deliberation_id, payload) for payload in payloads]

    def _pass_over(self) -> None:
        """What waits does so no more."""
        self._position += self._tokens
        self._texts, self._chars, self._tokens = [], 0, 0

    def _payload(self, at: str, type: str, text: str = "", tokens: int = 0, more: str = "") -> str:
        """The JSON of a `TokensWritten`."""
        number, self._number = self._number, self._number + 1
        whole = encode_basestring(text.encode(errors="replace").decode())  # no half of a surrogate pair
        return (
            f'{self._head},"timestamp":"{at}","type":"{type}","number":{number},'
            f'"text":{whole},"tokens":{tokens},"position":{self._position}{more}}}'
        )


tokens = TokenStreams()
os.register_at_fork(after_in_child=tokens.reset)
