"""Passwords and tokens that outlive a restart, and files that only their owner may read."""

import os
import secrets
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Writes `text` in one step: a reader sees the old file or the new one, and nobody else can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def secret(path: Path) -> str:
    """Returns the secret kept in `path`, made on first use; hexadecimal, so that it needs no quoting anywhere."""
    if not path.exists():
        write_private(path, secrets.token_hex(24))
    return path.read_text().strip()
