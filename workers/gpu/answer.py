"""What a model writes, piece by piece: its thoughts apart from its answer."""

from typing import Any

from fleet.engines.base import OnText
from fleet.engines.reasoning import split_reasoning


class AnswerText:
    """Collects one answer and hands on what is not thought, by the engine's reasoning parser if it has one."""

    def __init__(self, llm: Any, prompt: list[int], on_text: OnText | None):
        self._on_text = on_text
        self._parser = _parser(llm)
        self._thinking = self._parser is not None and not self._parser.is_reasoning_end(prompt)
        self._began_thinking = self._thinking
        self._ids: list[int] = []
        self._text: list[str] = []

    @property
    def tokens(self) -> int:
        return len(self._ids)

    def add(self, piece: Any) -> None:
        """Takes vLLM's next CompletionOutput."""
        new = list(piece.token_ids)
        self._ids += new
        self._text.append(piece.text)
        if self._thinking:
            self._thinking = not self._parser.is_reasoning_end_streaming(self._ids, new)
        elif self._on_text and piece.text:
            self._on_text(piece.text, len(new))

    def parts(self) -> tuple[str, str]:
        """The thoughts and the answer."""
        whole = "".join(self._text)
        if not self._began_thinking:
            return split_reasoning(whole)
        thought, content = self._parser.extract_reasoning(whole, _request())
        return thought or "", content or ""


def _parser(llm: Any) -> Any:
    name = llm.vllm_config.structured_outputs_config.reasoning_parser
    if not name:
        return None
    from vllm.reasoning import ReasoningParserManager

    return ReasoningParserManager.get_reasoning_parser(name)(llm.get_tokenizer())


def _request() -> Any:
    """What parsers ask of a request: nothing that Fleet sets."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return ChatCompletionRequest(messages=[])
