"""What can be said about a proposal without a model: does its code parse, does it say something, is it its own.

Everything here is pure and bounded: artifacts are parsed, never run, and no content makes a check raise.
"""

from collections.abc import Sequence
from typing import Any

from fleet.checks.paths import check_paths
from fleet.checks.syntax import lint
from fleet.checks.text import check_content, check_original
from fleet.deliberation.prompts import task_text
from fleet.deliberation.scoring import check_score
from fleet.models import Checks, Task

__all__ = ["check", "check_score"]


def check(task: Task, content: dict[str, Any], others: Sequence[dict[str, Any]]) -> Checks:
    """What the checks find in a proposal; `others` are the other proposals' contents.

    lint: every Python, JSON and YAML artifact parses; absent when there is none.
    content: the texts are filled in, with more than placeholders and repetition.
    original: it copies neither the task nor another proposal.
    artifact_path: every artifact has a path of its own inside the project; absent without artifacts.
    """
    found = (check_content(content), check_original(content, task_text(task), others), check_paths(content))
    return Checks(lint=lint(content), additional_checks=tuple(one for one in found if one is not None))
