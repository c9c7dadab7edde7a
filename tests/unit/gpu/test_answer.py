"""How the pieces of an answer are told from the thoughts before it."""

from dataclasses import dataclass, field
from typing import Any

from fleet.engines.reasoning import AnswerText
from workers.gpu.answer import Pieces

END = 7


@dataclass
class Piece:
    text: str
    token_ids: list[int] = field(default_factory=lambda: [1])


class Marked:
    """Thoughts that end with "</think>", which is token 7, as vLLM's parsers tell them."""

    def parser(self) -> Any:
        return self

    def is_reasoning_end(self, ids: list[int]) -> bool:
        return END in ids

    def is_reasoning_end_streaming(self, ids: list[int], new: list[int]) -> bool:  # noqa: ARG002
        return END in new

    def split(self, parser: Any, text: str) -> tuple[str, str]:  # noqa: ARG002
        thought, _, answer = text.partition("</think>")
        return thought, answer


class Unmarked:
    def parser(self) -> None:
        return None


def collected(thoughts: Any, prompt: list[int], *pieces: Piece) -> tuple[str, tuple[str, str]]:
    """What was heard, and the parts."""
    heard: list[str] = []
    collecting = Pieces(thoughts, prompt, AnswerText(lambda text, _: heard.append(text)))
    for piece in pieces:
        collecting.add(piece)
    parts = collecting.parts()
    return "".join(heard), parts


def test_what_comes_with_the_end_of_a_thought_is_heard_as_well() -> None:
    pieces = Piece("Hm, let"), Piece('</think>{"a', [2, END, 3]), Piece('": 1}')
    assert collected(Marked(), [1], *pieces) == ('{"a": 1}', ("Hm, let", '{"a": 1}'))


def test_a_thought_that_was_cut_is_all_thought() -> None:
    assert collected(Marked(), [1], Piece("Hm, let me"), Piece(" see")) == ("", ("Hm, let me see", ""))


def test_where_the_prompt_has_ended_the_thought_all_is_answer() -> None:
    assert collected(Marked(), [1, END], Piece('{"a": 1}')) == ('{"a": 1}', ("", '{"a": 1}'))


def test_an_answer_of_a_model_without_marks_is_passed_on_as_it_comes() -> None:
    assert collected(Unmarked(), [1], Piece('{"a"'), Piece(": 1}")) == ('{"a": 1}', ("", '{"a": 1}'))
