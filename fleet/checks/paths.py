"""Whether an artifact's path stays inside the project it is written for."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from fleet.checks.fields import artifacts, text
from fleet.models import AdditionalCheck

_DRIVE = re.compile(r"\A[A-Za-z]:")
_SHOWN = 80


def check_paths(content: Mapping[str, Any]) -> AdditionalCheck | None:
    """The share of artifacts whose path is sound; None without artifacts."""
    names = [text(file, "path") for file in artifacts(content)]
    if not names:
        return None
    faults = [(name, why) for index, name in enumerate(names) if (why := _fault(name, names[:index]))]
    return AdditionalCheck(
        check_type="artifact_path",
        passed=not faults,
        score=1 - len(faults) / len(names),
        message="; ".join(f"{name[:_SHOWN]!r} {why}" for name, why in faults),
    )


def _fault(name: str, before: list[str]) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if not name.strip() or not path.parts:
        return "is empty"
    if not name.isprintable():
        return "has control characters"
    if path.is_absolute() or _DRIVE.match(name) or name.startswith("~"):
        return "is absolute"
    if ".." in path.parts:
        return "leaves the project"
    return "is used twice" if path in (PurePosixPath(other.replace("\\", "/")) for other in before) else ""
