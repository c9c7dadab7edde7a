"""Every promise in docs/explanation/guarantees.md names tests, and they are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "guarantees.md").read_text()
PROMISES = [line for line in PAGE.splitlines() if line.startswith("| **")]


def test_each_promise_names_tests_that_exist() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)", sources, re.MULTILINE))
    named = [set(re.findall(r"`(test_\w+)`", promise)) for promise in PROMISES]
    assert len(named) == 10
    assert all(named)
    assert set().union(*named) <= defined
