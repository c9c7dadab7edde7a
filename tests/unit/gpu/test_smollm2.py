"""The small model's folder, where it cannot be made."""

import sys
from pathlib import Path

import pytest

from fleet.engines import models
from fleet.errors import ModelUnavailable
from workers.gpu import smollm2


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the GGUF file in it, whose content nobody gets to read here."""
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(models, "locate", lambda *_: tmp_path / "small.gguf")
    return tmp_path


def test_without_transformers_there_is_one_line_and_nothing_half_made(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert smollm2.main() == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cannot make {cache / smollm2.FOLDER} of small.gguf: ")
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_full_disk_is_said_before_the_work_begins(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "NEEDED_BYTES", 2**60)
    with pytest.raises(ModelUnavailable, match=rf"needs \d+ MiB in {cache}, \d+ MiB are free"):
        smollm2.safetensors_folder()


def test_what_was_made_is_used_as_it_is(cache: Path) -> None:
    (cache / smollm2.FOLDER).mkdir()
    assert smollm2.safetensors_folder() == cache / smollm2.FOLDER
