"""Tells what a model thought from what it answered."""

_OPEN, _CLOSE = "<think>", "</think>"


def split_reasoning(text: str) -> tuple[str, str]:
    """(reasoning, answer) of a raw completion.

    Handles a block that was never closed (all reasoning, no answer) and a lone `</think>`, which chat templates that
    open the block in the prompt leave behind. Text that starts as JSON is an answer, whatever its strings contain.
    """
    start = text.lstrip()
    if start.startswith(_OPEN):
        reasoning, _, answer = start.removeprefix(_OPEN).partition(_CLOSE)
    elif _CLOSE in start and not start.startswith(("{", "[", '"')):
        reasoning, _, answer = start.partition(_CLOSE)
    else:
        return "", text
    return reasoning.strip(), answer.strip()
