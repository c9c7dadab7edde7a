"""Whether code parses, on input that may be made to break the parser."""

import ast
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, NoReturn

import yaml

from fleet.checks.fields import artifacts, text
from fleet.models import LintCheck

_ALIASES = {"py": "python", "pyi": "python", "python3": "python", "yml": "yaml"}
# Characters. PyYAML's parser in Python reads some 100,000 in a second; it is the one that survives deep nesting.
MAX_CHARS = {"python": 200_000, "json": 1_000_000, "yaml": 100_000}
_SHOWN = 200
# CPython before 3.13 counts the depth of the trees of all threads together, and raises SystemError (gh-106905).
_ONE_TREE = threading.Lock()


def lint(content: Mapping[str, Any]) -> LintCheck | None:
    """One error for every Python, JSON or YAML artifact that does not parse; None when there is no such artifact.

    The language is the artifact's own or, if that is none of the three, its path's extension. Empty files are not
    counted; files too large to be parsed here are not either, but give a warning beside others.
    """
    files = [(file, language) for file in artifacts(content) if (language := _language(file))]
    found = [_fault(file, language) for file, language in files if _checkable(file, language)]
    if not found:
        return None
    errors = tuple(fault for fault in found if fault)
    skipped = sum(len(text(file, "content")) > MAX_CHARS[language] for file, language in files)
    return LintCheck(passed=not errors, error_count=len(errors), warning_count=skipped, errors=errors)


def _language(file: Mapping[str, Any]) -> str | None:
    suffix = PurePosixPath(text(file, "path")[-100:]).suffix.removeprefix(".")
    for name in (text(file, "language"), suffix):
        name = name.strip().lower()
        if (language := _ALIASES.get(name, name)) in MAX_CHARS:
            return language
    return None


def _checkable(file: Mapping[str, Any], language: str) -> bool:
    code = text(file, "content")
    return bool(code.strip()) and len(code) <= MAX_CHARS[language]


def _fault(file: Mapping[str, Any], language: str) -> str:
    try:
        _PARSERS[language](text(file, "content"))
    except (SyntaxError, ValueError, yaml.YAMLError) as error:  # ValueError: NUL, endless numbers, lone surrogates
        why = " ".join(str(error).split()) or type(error).__name__
    except (RecursionError, MemoryError):
        why = "too deeply nested"
    else:
        return ""
    return f"{text(file, 'path')[:_SHOWN]}: {why[:_SHOWN]}"


def _parse_json(code: str) -> None:
    json.loads(code, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _parse_yaml(code: str) -> None:
    # Nodes only: no object is made, so neither tags nor merged aliases can do or cost anything.
    for _ in yaml.compose_all(code, yaml.SafeLoader):
        pass


def _parse_python(code: str) -> None:
    with _ONE_TREE:
        ast.parse(code)


_PARSERS: dict[str, Callable[[str], object]] = {"python": _parse_python, "json": _parse_json, "yaml": _parse_yaml}
