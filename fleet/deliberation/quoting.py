"""Quoting text that a model or a stranger wrote, so that it stays data."""

import re

# Our own tags, and what chat templates take for control: <|im_end|>, </s>, <start_of_turn>, [INST], …
_CONTROL = re.compile(
    r"<(?=\s*/?\s*(?:task|candidate|critique|own)\b)"
    r"|<(?=[|\uff5c])"
    r"|<(?=/?(?:s|think|bos|eos|pad|unk|start_of_turn|end_of_turn|tool_call|tool_response)>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
    r"|<(?=<?/?SYS>)",
    re.IGNORECASE,
)
_MARK = "… [cut: {left} more characters]"


def neutral(text: str) -> str:
    """`text` with the first character of every tag of ours and of every known control word written as an entity.

    Other markup stays as it is, so that code can be read and copied.
    """
    return _CONTROL.sub(lambda found: "&lt;" if found[0] == "<" else "&#91;", text)


def cut(text: str, longest: int) -> str:
    """`text` if it has at most `longest` characters, else its beginning and how much is missing, together as long."""
    if len(text) <= longest:
        return text
    mark = _MARK.format(left=len(text))  # as long as the real mark or a digit longer
    kept = max(0, longest - len(mark))
    return text[:kept] + _MARK.format(left=len(text) - kept)


def quoted(tag: str, text: str, longest: int, **attributes: str) -> str:
    """`text` as data between `<tag>` and `</tag>`, cut to `longest` characters without the tags."""
    head = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"<{tag}{head}>\n{cut(neutral(text), longest)}\n</{tag}>"
