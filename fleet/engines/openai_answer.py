"""An answer of OpenAI's chat API, put together from what is streamed."""

from typing import Any

from fleet.engines.base import Completion, Generation
from fleet.engines.reasoning import StreamedAnswer
from fleet.errors import EngineError

REASON_CHARS = 300
MOST_CHARS = 4_000_000  # of an answer and its thoughts; more is none that anybody asked for
# Servers say "abort" for a request that they gave up while they were shutting down; it is worth another try.
_WORTH_ANOTHER_TRY = ("abort", "error")


class Answer:
    """Takes the events in order, then has the completion. The first of several choices counts."""

    def __init__(self, request: Generation):
        self.text = StreamedAnswer(request.on_text)
        self._refusal = self._model = ""
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] = {}
        self._chosen = self._said = False
        self._chars = 0

    @property
    def begun(self) -> bool:
        """Whether some of it is there, thoughts or text."""
        return self.text.first_token_ms is not None

    def take(self, event: Any) -> None:
        """Raises: EngineError when it tells of one, or is none of this API."""
        if isinstance(event, dict) and (error := event.get("error")):
            raise _stream_error(error)
        choices = event.get("choices") if isinstance(event, dict) else None
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise EngineError("openai", "the server's answer is not a chat completion", True)
        self._model = str(event.get("model") or self._model)
        self._usage = _dict(event.get("usage")) or self._usage
        for choice in choices[:1]:
            self._chosen = True
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            if "delta" in choice:
                self._hear(_dict(choice["delta"]))

    def completion(self, model: str) -> Completion:
        """Raises: EngineError when it is no answer."""
        self._raise_failure()
        thought, text = self.text.parts()
        if not text.strip():
            cut = " before its reasoning ended" if self._finish_reason == "length" else ""
            raise EngineError("openai", f"the model answered nothing{cut}", True)
        return Completion(
            text=text,
            finish_reason="length" if self._finish_reason == "length" else "stop",
            model=self._model or model,
            prompt_tokens=int(self._usage.get("prompt_tokens") or 0),
            completion_tokens=int(self._usage.get("completion_tokens") or 0),
            latency_ms=self.text.ms(),
            reasoning=thought,
            first_token_ms=self.text.first_token_ms,
            cached_tokens=_dict(self._usage.get("prompt_tokens_details")).get("cached_tokens"),
        )

    def _hear(self, delta: dict[str, Any]) -> None:
        self._said = True
        self._refusal += str(delta.get("refusal") or "")
        thought = str(delta.get("reasoning_content") or delta.get("reasoning") or "")
        text = str(delta.get("content") or "")
        self._chars += len(text) + len(thought)
        if self._chars > MOST_CHARS:
            raise EngineError("openai", f"the answer has more than {MOST_CHARS} characters")
        self.text.add(text, thought)

    def _raise_failure(self) -> None:
        if not self._chosen:
            raise EngineError("openai", "the server's answer has no choice", True)
        if not self._said:
            raise EngineError("openai", "the server's answer has no message", True)
        if self._refusal:
            raise EngineError("openai", f"the model refused: {self._refusal}"[:REASON_CHARS])
        reason = self._finish_reason
        if reason is None:
            raise EngineError("openai", "the server ended the answer before its end", True)
        if reason == "content_filter":
            raise EngineError("openai", "the answer was withheld by a content filter (content_filter)")
        if reason not in ("stop", "length"):
            raise EngineError("openai", f"the answer ended with {reason!r}", reason in _WORTH_ANOTHER_TRY)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _stream_error(error: Any) -> EngineError:
    """What a server says in the middle of its answer; only a code tells whether trying again helps."""
    told = error if isinstance(error, dict) else {"message": error}
    code = told.get("code")
    retryable = not isinstance(code, int) or code == 429 or code >= 500
    reason = f"the server failed in its answer: {told.get('message', told)}"
    return EngineError("openai", reason[:REASON_CHARS], retryable)
