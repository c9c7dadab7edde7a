import pytest

from fleet.engines.reasoning import AnswerText, split_reasoning


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


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"n": "<think> </think>"}', '{"n": "<think> </think>"}'),
        ('\n {"n": 1}', '\n {"n": 1}'),
        ('<think>a {thought}</think>\n{"n": 1}', '{"n": 1}'),
        (' <think></think>\n"n"', '"n"'),
        ('a thought</think>\n\n[1, "</think>"]', '[1, "</think>"]'),
        ("no JSON at all", "no JSON at all"),
        ("<think>and on", ""),
        ("<think>and on</think> \n", ""),
        ("", ""),
    ],
)
def test_what_is_heard_while_it_is_written_is_the_answer_however_it_is_cut(text: str, answer: str, size: int) -> None:
    heard: list[str] = []
    listening = AnswerText(lambda piece, _: heard.append(piece))
    for at in range(0, len(text), size):
        listening.write(text[at : at + size])
    listening.end()
    assert "".join(heard) == answer


def test_json_is_heard_at_once_and_the_tokens_of_thoughts_do_not_count() -> None:
    heard: list[tuple[str, int]] = []
    listening = AnswerText(lambda piece, tokens: heard.append((piece, tokens)))
    for piece in ("<think>", "a", "</think>", '{"n"', ": 1}"):
        listening.write(piece)
    assert heard == [('{"n"', 1), (": 1}", 1)]


def test_nothing_is_heard_after_the_end() -> None:
    heard: list[str] = []
    listening = AnswerText(lambda piece, _: heard.append(piece))
    listening.write('{"n')
    listening.close()
    listening.write('": 1}')
    listening.end()
    assert heard == ['{"n']
