"""Artifacts of the scripted engine: short files that parse and name the requirements, or that do not parse at all."""

import ast
import json
from typing import Any

import yaml

_LANGUAGE_OF_ROLE = {
    "DEV": "python",
    "QA": "python",
    "DEVOPS": "yaml",
    "DATA": "sql",
    "ARCHITECT": "markdown",
}

# language → (file name, first lines, prefix of one note, last lines)
_PARTS = {
    "python": (
        "solution.py",
        'def plan() -> list[str]:\n    """What has to hold when this is done."""\n    return [\n',
        "        {note},\n",
        "    ]\n",
    ),
    "yaml": ("solution.yaml", "steps:\n  - build\n", "  - {note}\n", ""),
    "json": ("solution.json", '{"steps": ["build"', ", {note}", "]}\n"),
    "sql": ("solution.sql", "", "-- {note}\n", "CREATE TABLE result (id INTEGER PRIMARY KEY, state TEXT NOT NULL);\n"),
    "bash": ("solution.sh", "#!/usr/bin/env bash\nset -euo pipefail\n", "# {note}\n", 'echo "done"\n'),
    "markdown": ("solution.md", "# Solution\n\n", "- {note}\n", ""),
}
_ALIASES = {"py": "python", "yml": "yaml", "sh": "bash", "shell": "bash", "md": "markdown", "text": "markdown"}
_BROKEN = {
    "python": "def solve(:\n",
    "yaml": "steps: [build\n",
    "json": '{"steps": [\n',
    "sql": "SELEC * FORM (\n",
    "bash": "if then (\n",
}


def language_for(role: str, allowed: list[str] | None) -> str:
    """The language a role writes in, or the first allowed one that is known here, or the first allowed one."""
    preferred = _LANGUAGE_OF_ROLE.get(role.upper(), "python")
    if not allowed or preferred in allowed:
        return preferred
    return next((name for name in allowed if _known(name)), allowed[0])


def _known(language: str) -> str | None:
    language = _ALIASES.get(language.lower(), language.lower())
    return language if language in _PARTS else None


def artifact(language: str, notes: list[str], longest: int) -> dict[str, str]:
    """A file that parses, with as many of `notes` in it as fit into `longest` characters."""
    known = _known(language) or "markdown"
    name, text, line, end = _PARTS[known]
    quoted = known in ("python", "json", "yaml")
    for note in notes:
        note = " ".join(note.split())
        addition = line.format(note=json.dumps(note, ensure_ascii=False) if quoted else note)
        if len(text) + len(addition) + len(end) <= longest:
            text += addition
    return {"path": name, "language": language, "content": text + end}


def broken_artifact(language: str) -> dict[str, str]:
    """A file that no parser accepts; for a language without a grammar, one that says next to nothing."""
    known = _known(language) or "markdown"
    return {"path": _PARTS[known][0], "language": language, "content": _BROKEN.get(known, "?")}


def quality(proposal: dict[str, Any]) -> tuple[int, int, int]:
    """How good a proposal looks: artifacts that parse less those that do not, named steps, characters in all."""
    artifacts = [item for item in proposal.get("artifacts") or [] if isinstance(item, dict)]
    sound = sum(1 if parses(str(item.get("language", "")), str(item.get("content", ""))) else -1 for item in artifacts)
    steps = sum(1 for step in proposal.get("steps") or [] if len(str(step)) > 3)
    return sound, steps, len(json.dumps(proposal, ensure_ascii=False, default=str))


def parses(language: str, content: str) -> bool:
    """Whether Python, JSON and YAML parse; anything else counts when it is longer than a stub of 20 characters."""
    try:
        match _ALIASES.get(language.lower(), language.lower()):
            case "python":
                ast.parse(content)
            case "json":
                json.loads(content)
            case "yaml":
                yaml.safe_load(content)
            case _:
                return len(content.strip()) > 20
    except (SyntaxError, ValueError, yaml.YAMLError, RecursionError, MemoryError):
        return False
    return bool(content.strip())
