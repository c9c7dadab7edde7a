"""What vLLM hands over of an answer, piece by piece: the thoughts apart, by the engine's reasoning parser."""

from typing import Any

from fleet.engines.reasoning import AnswerText, split_reasoning


class Pieces:
    """Collects one answer, and passes on to `heard` what is not thought."""

    def __init__(self, llm: Any, prompt: list[int], heard: AnswerText):
        self._heard = heard
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
        else:
            self._heard.write(piece.text, len(new))

    def parts(self) -> tuple[str, str]:
        """The thoughts and the answer, when it is over."""
        self._heard.end()
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
