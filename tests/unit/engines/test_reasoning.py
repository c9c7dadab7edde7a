import pytest

from fleet.engines.reasoning import split_reasoning


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ('{"a": 1}', "", '{"a": 1}'),
        ('<think>so and so</think>\n{"a": 1}', "so and so", '{"a": 1}'),
        ('\n<think>\n\n</think>\n\n{"a": 1}', "", '{"a": 1}'),
        ("<think>never ends", "never ends", ""),
        ('opened by the template</think>{"a": 1}', "opened by the template", '{"a": 1}'),
        ('{"code": "<think></think>"}', "", '{"code": "<think></think>"}'),
        ('<think>a</think>{"code": "</think>"}', "a", '{"code": "</think>"}'),
    ],
)
def test_thoughts_are_told_from_the_answer(text: str, reasoning: str, answer: str) -> None:
    assert split_reasoning(text) == (reasoning, answer)
