"""What vLLM hands over of an answer, piece by piece: the thoughts apart, by the engine's reasoning parser."""

from typing import Any

from fleet.engines.reasoning import AnswerText, split_reasoning


class Thoughts:
    """How the engine's model marks its thoughts; by nothing unless vLLM was told of a reasoning parser."""

    def __init__(self, llm: Any):
        self._tokenizer = llm.get_tokenizer()
        self._parser_class = _parser_class(llm)
        self._request = _request() if self._parser_class else None
        if self._parser_class:
            self._request = self.parser().adjust_request(self._request)

    @property
    def skip_special_tokens(self) -> bool:
        """False where the marks are special tokens, which would be left out of the text."""
        return self._request is None or self._request.skip_special_tokens

    def parser(self) -> Any:
        """A new one, since it may remember what it read; None where there is none."""
        return self._parser_class(self._tokenizer) if self._parser_class else None

    def split(self, parser: Any, text: str) -> tuple[str, str]:
        """The thoughts and the answer in a text."""
        thought, content = parser.extract_reasoning(text, self._request)
        return thought or "", content or ""


class Pieces:
    """Collects one answer, and passes on to `heard` what is not thought."""

    def __init__(self, thoughts: Thoughts, prompt: list[int], heard: AnswerText):
        self._thoughts, self._heard = thoughts, heard
        self._parser = thoughts.parser()
        self._thinks = self._thinking = self._parser is not None and not self._parser.is_reasoning_end(prompt)
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
        if not self._thinking:
            self._heard.write(piece.text, len(new))
        elif self._parser.is_reasoning_end_streaming(self._ids, new):
            self._thinking = False
            self._heard.write(self._thoughts.split(self._parser, "".join(self._text))[1], len(new))

    def parts(self) -> tuple[str, str]:
        """The thoughts and the answer, when it is over."""
        self._heard.end()
        whole = "".join(self._text)
        if self._thinking:
            return whole, ""
        return self._thoughts.split(self._parser, whole) if self._thinks else split_reasoning(whole)


def _parser_class(llm: Any) -> Any:
    name = llm.vllm_config.structured_outputs_config.reasoning_parser
    if not name:
        return None
    from vllm.reasoning import ReasoningParserManager

    return ReasoningParserManager.get_reasoning_parser(name)


def _request() -> Any:
    """What parsers ask of a request: nothing that Fleet sets."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return ChatCompletionRequest(messages=[])
