"""Plans as people write them, and what is said of those that are none."""

import io
import sys
from pathlib import Path

import pytest

from fleet.cli.client import BAD_USAGE, Failure
from fleet.cli.documents import MOST_BYTES, read_document


def refused(path: Path) -> str:
    with pytest.raises(Failure) as caught:
        read_document(path)
    assert caught.value.exit_code == BAD_USAGE
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("text", ['{"plan_id": "p"}', "plan_id: p", "{plan_id: p}", "# a comment\nplan_id: p\n"])
def test_json_and_yaml_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan").write_text(text)
    assert read_document(tmp_path / "plan") == {"plan_id": "p"}


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"plan_id: p")))
    assert read_document(Path("-")) == {"plan_id": "p"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"plan_id": "p",\n "roles": ["DEV"}', "line 2, column 17"),
        ("plan_id: p\nroles: [DEV\n", "line 3, column 1"),
        ("plan_id: p\n\troles: x\n", "line 2, column 1"),
        ("plan_id: !!python/object:os.system {}\n", "line 1, column 10"),
        ("&a [*a, *a]", "more than 100,000 values"),
        ("a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(40)), "100,000 values"),
        ("&a [" + "*a, " * 20_000 + "x]", "100,000 values"),
        ("[" * 20_000, "nested too deeply"),
        ("a: \x07", "neither JSON nor YAML"),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "plan").write_text(text)
    assert said in refused(tmp_path / "plan")


def test_a_file_that_is_not_utf_8_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"plan_id: \xff")
    assert "byte 10 is 0xff" in refused(tmp_path / "plan")


def test_a_file_over_1_mib_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("#" * (MOST_BYTES + 1))
    assert "at most 1 MiB" in refused(tmp_path / "plan")


@pytest.mark.parametrize("name", ["nothing", ".", "x" * 300])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    assert "cannot read" in refused(tmp_path / name)


def test_a_device_without_end_is_refused() -> None:
    assert "too large" in refused(Path("/dev/zero"))
