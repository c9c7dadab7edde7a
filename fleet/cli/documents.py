"""Plans as people write them: JSON or YAML, from a file or standard input."""

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

from fleet.cli.client import BAD_USAGE, fail

MOST_BYTES = 1 << 20  # what the API takes
_MOST_VALUES = 100_000


def read_document(file: Path) -> Any:
    """The document in `file`, - being standard input. Raises: Failure, with exit code 2 when there is none."""
    data = _read(file)
    if len(data) > MOST_BYTES:
        fail(f"{file} is too large: a plan has at most 1 MiB", BAD_USAGE)
    try:
        text = data.decode()
        return _bounded(_parse(text), file)
    except UnicodeDecodeError as error:
        fail(f"{file} is not UTF-8: byte {error.start + 1} is {data[error.start]:#04x}", BAD_USAGE)
    except json.JSONDecodeError as error:
        fail(f"{file} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}", BAD_USAGE)
    except yaml.MarkedYAMLError as error:
        _fail_at(file, error)
    except (yaml.YAMLError, ValueError) as error:
        fail(f"{file} is neither JSON nor YAML: {str(error).splitlines()[0]}", BAD_USAGE)
    except RecursionError:
        fail(f"{file} is nested too deeply", BAD_USAGE)


def _read(file: Path) -> bytes:
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(MOST_BYTES + 1)
        with file.open("rb") as source:
            return source.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        fail(f"cannot read {file}: {getattr(error, 'strerror', None) or error}", BAD_USAGE)


def _parse(text: str) -> Any:
    """What begins as JSON and is none may still be YAML; if not, it was meant as JSON."""
    if not text.lstrip().startswith(("{", "[")):
        return yaml.safe_load(text)
    try:
        return json.loads(text)
    except json.JSONDecodeError as as_json:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            raise as_json from None


def _bounded(document: Any, file: Path) -> Any:
    """Refuses what grows without bound when it is written out: YAML's aliases can refer to themselves."""
    left, seen = [document], 0
    while left:
        if seen + len(left) > _MOST_VALUES:
            fail(f"{file} has more than {_MOST_VALUES:,} values: a plan has at most 1 MiB", BAD_USAGE)
        one = left.pop()
        seen += 1
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return document


def _fail_at(file: Path, error: yaml.MarkedYAMLError) -> NoReturn:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    fail(f"{file} is neither JSON nor YAML: {place}{error.problem or error.context}", BAD_USAGE)
