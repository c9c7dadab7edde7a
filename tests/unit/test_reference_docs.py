"""The reference is what the code says."""

import re
from pathlib import Path

import pytest

from docs import generate
from fleet.bus.streams import stream_of


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_page_of_the_reference_is_as_the_code_makes_it(name: str) -> None:
    written = (generate.FOLDER / name).read_text()
    assert written == generate.page(name), f"docs/reference/{name} is out of date: run `python -m docs.generate`"


def test_every_page_of_the_reference_is_made() -> None:
    assert {path.name for path in generate.FOLDER.glob("*.md")} == set(generate.PAGES)


def test_every_subject_of_the_reference_is_kept_by_a_stream() -> None:
    subjects = [
        subject
        for line in generate.page("events.md").splitlines()
        if line.startswith("### ")
        for subject in re.findall(r"`([^`]+)`", line)
    ]
    assert len(subjects) > 10
    assert [one for one in subjects if stream_of(one) is None] == []


def test_every_link_between_pages_leads_somewhere() -> None:
    """Pages, files of the repository and headings, for every relative link of docs/ and the README."""
    root = generate.FOLDER.parents[1]
    broken = []
    for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not target.startswith(("http://", "https://")) and not _leads(page, target):
                broken.append(f"{page.relative_to(root)}: {target}")
    assert broken == []


def _leads(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    found = (page.parent / name).resolve() if name else page
    if not found.exists():
        return False
    return not anchor or anchor in map(_slug, re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE))


def _slug(heading: str) -> str:
    """A heading's anchor as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
