"""Whether a proposal says something, and something of its own."""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fleet.checks.fields import artifacts, body, prose, text, texts
from fleet.models import AdditionalCheck

COPY = 0.9  # share of shingles in common from which a text counts as a copy
_SHINGLE = 3  # words
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # written without spaces: every character is a word
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_PLACEHOLDER = re.compile(
    r"(?:todo|tbd|tba|n/?a|none|null|string|text|placeholder|\.{2,}|…|[-_?*#]+|<[^<>]*>|\[[^\[\]]*\])\W*",
    re.IGNORECASE,
)
_LONGEST_PLACEHOLDER = 100  # characters; also keeps the pattern's backtracking harmless
_REPETITIVE = 0.15  # compressed size by size: prose has about 0.5, a long file of code 0.2
_REPETITIVE_PROSE = 0.25  # the same of all prose together; parts that repeat each other fall below
_FEWEST_WORDS = 10  # different ones, of summary, approach and steps together
_LONG_ENOUGH = 200  # characters; below, zlib's own overhead blurs the measure
_COMMONEST = 0.5  # share of one word from which a text is that word repeated


def check_content(content: Mapping[str, Any]) -> AdditionalCheck:
    """The share of summary, approach, steps, their whole and artifacts (if there are any) that say something."""
    steps, files = texts(content, "steps"), [text(file, "content") for file in artifacts(content)]
    faults = {
        "summary": fault(text(content, "summary")),
        "approach": fault(text(content, "approach")),
        "steps": _fault_of_all(steps),
        "whole": _fault_of_whole(" ".join(prose(content))),
    }
    if files:
        faults["artifacts"] = _fault_of_all(files)
    found = {name: why for name, why in faults.items() if why}
    return AdditionalCheck(
        check_type="content",
        passed=not found,
        score=1 - len(found) / len(faults),
        message="; ".join(f"{name} {why}" for name, why in found.items()),
    )


def check_original(content: Mapping[str, Any], task: str, others: Sequence[Mapping[str, Any]]) -> AdditionalCheck:
    """Fails when 90 % of its prose stands in the task, or when it has 90 % of all in common with another proposal.

    Both are shares of three-word shingles: the first is containment (a proposal may be shorter than the task), the
    second resemblance (Jaccard), files included. Two proposals that are copies of each other both fail: which came
    first cannot be told.

    Source: A. Z. Broder, On the resemblance and containment of documents (1997).
    """
    words, own = shingles(prose(content)), shingles(body(content))
    copied = ""
    if words and len(words & shingles([task])) / len(words) >= COPY:
        copied = "the task"
    elif any(resemblance(own, shingles(body(other))) >= COPY for other in others):
        copied = "another proposal"
    return AdditionalCheck(
        check_type="original",
        passed=not copied,
        score=0.0 if copied else 1.0,
        message=f"it is a copy of {copied}" if copied else "",
    )


def fault(value: str) -> str:
    """Why a text says nothing; empty if it does say something."""
    value = value.strip()
    if not value:
        return "is empty"
    if value.lower().startswith("lorem ipsum") or _is_placeholder(value):
        return "is a placeholder"
    words = _words(value)
    if not any(map(str.isalpha, value)):
        return "has no words"
    return "repeats itself" if _repetitive(value, words) else ""


def shingles(values: Sequence[str]) -> set[tuple[str, ...]]:
    """Every text's runs of three words, without regard to case, punctuation and width; all words of a shorter text."""
    found: set[tuple[str, ...]] = set()
    for words in map(_words, values):
        short = {tuple(words)} if 0 < len(words) < _SHINGLE else set()
        found |= short or set(zip(words, words[1:], words[2:], strict=False))
    return found


def resemblance(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    """Shingles in both by shingles in either; 0 when both are empty."""
    return len(one & other) / len(one | other) if one or other else 0.0


def _fault_of_whole(value: str) -> str:
    if len(set(_words(value))) < _FEWEST_WORDS:
        return "says next to nothing"
    return "repeats itself" if _packed(value) < _REPETITIVE_PROSE else ""


def _fault_of_all(values: Sequence[str]) -> str:
    """Why several texts together say nothing: one of them does not, or more than half of them repeat another."""
    if not values:
        return "are missing"
    if any(why := fault(value) for value in values):
        return why.replace("is ", "are ", 1) if len(values) > 1 else why
    different = {" ".join(_words(value)) for value in values}
    return "repeat each other" if len(different) < len(values) / 2 else ""


def _is_placeholder(value: str) -> bool:
    return len(value) <= _LONGEST_PLACEHOLDER and _PLACEHOLDER.fullmatch(value) is not None


def _repetitive(value: str, words: Sequence[str]) -> bool:
    if len(words) >= 6 and max(Counter(words).values()) > len(words) * _COMMONEST:
        return True
    if 30 <= len(value) < _LONG_ENOUGH:
        return len(set(value.lower())) < 6
    return _packed(value) < _REPETITIVE


def _packed(value: str) -> float:
    """Compressed size by size; 1 for a short text."""
    data = value.encode("utf-8", "replace")
    return len(zlib.compress(data)) / len(data) if len(data) >= _LONG_ENOUGH else 1.0


def _words(value: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", value).casefold())
