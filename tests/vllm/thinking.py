"""A reasoning parser for vLLM under which every model thinks until its first full stop; loaded as a plugin of vLLM."""

from collections.abc import Iterable, Sequence
from typing import Any

from vllm.reasoning import ReasoningParser, ReasoningParserManager


@ReasoningParserManager.register_module("until_full_stop")
class UntilFullStop(ReasoningParser):
    @property
    def _end(self) -> int:
        return int(self.vocab["."])

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:  # noqa: ARG002 - prompts have full stops too
        return False

    def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Iterable[int]) -> bool:  # noqa: ARG002
        return self._end in delta_ids

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        return input_ids[input_ids.index(self._end) + 1 :]

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:  # noqa: ARG002
        thought, _, answer = model_output.partition(".")
        return thought, answer

    def extract_reasoning_streaming(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError
