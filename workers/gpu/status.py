"""How a node's workers do, as a file that the launcher keeps and `--status` reads."""

import contextlib
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fleet.stack.folder_lock import holder
from fleet.stack.secret_file import write_private

LOCK = "gpu.lock"
FILE = "gpu.json"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker at one moment; `state` is starting, ready, waiting (for its next start) or draining."""

    name: str
    pid: int | None
    devices: tuple[str, ...]
    state: str
    restarts: int
    last_exit: int | None


class StatusFile:
    """`folder`/gpu.json, readable by its owner only, there while a launcher runs and written when something changes."""

    def __init__(self, folder: Path):
        self._path = folder / FILE
        self._host = socket.gethostname()
        self._written: list[WorkerStatus] = []
        self._since: dict[str, tuple[str, str]] = {}

    def update(self, workers: list[WorkerStatus]) -> None:
        """Writes what changed; tried again by the next call where it cannot, for a full disk ends no worker."""
        if workers != self._written:
            with contextlib.suppress(OSError):
                write_private(self._path, json.dumps(self._document(workers), indent=2) + "\n")
                self._written = workers

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _document(self, workers: Sequence[WorkerStatus]) -> dict[str, object]:
        return {"host": self._host, "pid": os.getpid(), "workers": [self._entry(worker) for worker in workers]}

    def _entry(self, worker: WorkerStatus) -> dict[str, object]:
        state, since = self._since.get(worker.name, ("", ""))
        if state != worker.state:
            since = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._since[worker.name] = worker.state, since
        return {
            "worker": f"{worker.name}@{self._host}",
            "pid": worker.pid,
            "devices": list(worker.devices),
            "state": worker.state,
            "restarts": worker.restarts,
            "since": since,
            "last_exit": worker.last_exit,
        }


def read(folder: Path) -> str | None:
    """Returns the document of the launcher that runs in `folder`, None when none does."""
    if holder(folder, LOCK) is None:
        return None
    try:
        return (folder / FILE).read_text()
    except FileNotFoundError:  # it starts, or stops, just now
        return None
