"""Tells what a model thought from what it answered."""

import threading
import time

from fleet.engines.base import OnText

_OPEN, _CLOSE = "<think>", "</think>"
_JSON = ("{", "[", '"')


def split_reasoning(text: str) -> tuple[str, str]:
    """(reasoning, answer) of a raw completion.

    Handles a block that was never closed (all reasoning, no answer) and a lone `</think>`, which chat templates that
    open the block in the prompt leave behind. Text that starts as JSON is an answer, whatever its strings contain.
    """
    start = text.lstrip()
    if start.startswith(_OPEN):
        reasoning, _, answer = start.removeprefix(_OPEN).partition(_CLOSE)
    elif _CLOSE in start and not start.startswith(_JSON):
        reasoning, _, answer = start.partition(_CLOSE)
    else:
        return "", text
    return reasoning.strip(), answer.strip()


class AnswerText:
    """Passes on what is written of an answer while it is written, without the thoughts that `split_reasoning` finds.

    What might yet be a thought is held back until it is known. Thread-safe: nothing is passed on after `close()`.
    """

    def __init__(self, on_text: OnText | None):
        self._on_text = on_text
        self._lock = threading.Lock()
        self._held, self._tokens = "", 0
        self._answering = False

    def write(self, text: str, tokens: int = 1) -> None:
        with self._lock:
            if self._on_text is None:
                return
            if not self._answering:
                text, tokens = self._answer_in(text, tokens)
            if text:
                self._on_text(text, tokens)

    def end(self) -> None:
        """The model has said all: what was held back was no thought, unless it was marked as one."""
        with self._lock:
            if self._on_text and not self._answering and not self._held.lstrip().startswith(_OPEN) and self._held:
                self._on_text(self._held, self._tokens)
            self._on_text = None

    def close(self) -> None:
        with self._lock:
            self._on_text = None

    def _answer_in(self, text: str, tokens: int) -> tuple[str, int]:
        """What of the text held and of this one is certainly answer, and its tokens."""
        self._held += text
        self._tokens += tokens
        start = self._held.lstrip()
        if start.startswith(_JSON):
            self._answering = True
            return self._held, self._tokens
        answer = start.partition(_CLOSE)[2].lstrip()
        self._answering = bool(answer)
        return answer, tokens


class StreamedAnswer:
    """One answer as a server of OpenAI's chat API streams it: text, thoughts it tells apart, and when they began."""

    def __init__(self, on_text: OnText | None):
        self.first_token_ms: int | None = None
        self._heard = AnswerText(on_text)
        self._started = time.monotonic()
        self._text: list[str] = []
        self._thoughts: list[str] = []

    def add(self, text: str, thought: str) -> None:
        if self.first_token_ms is None and (text or thought):
            self.first_token_ms = self.ms()
        self._text.append(text)
        self._thoughts.append(thought)
        if text:
            self._heard.write(text)

    def ms(self) -> int:
        """Milliseconds since it was asked for."""
        return round((time.monotonic() - self._started) * 1000)

    def parts(self) -> tuple[str, str]:
        """(reasoning, answer), when the model has said all."""
        self._heard.end()
        thought, text = split_reasoning("".join(self._text))
        return "".join(self._thoughts) or thought, text

    def close(self) -> None:
        """Nothing is passed on any more."""
        self._heard.close()
