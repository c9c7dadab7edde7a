"""One process of a kind per folder."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from fleet.stack import reaper
from fleet.stack.errors import AlreadyRunning

# Longer than the reaper gives the processes of a fleet that was killed.
PREDECESSOR_S = 10.0


@contextlib.contextmanager
def only_one(folder: Path, file: str = "lock", kind: str = "a fleet") -> Iterator[None]:
    """Holds the folder's lock, until the last process started meanwhile has ended even should this one be killed.

    Raises: AlreadyRunning.
    """
    with (folder / file).open("a+") as lock:
        _lock(lock, folder, kind)
        reaper.hold(lock.fileno())
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def holder(folder: Path, file: str = "lock") -> int | None:
    """The id of the process that runs in the folder, None when none does."""
    with contextlib.suppress(FileNotFoundError), (folder / file).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = int(lock.read() or 0)
            return pid if _runs(pid) else None
    return None


def _lock(lock: IO[str], folder: Path, kind: str) -> None:
    deadline = time.monotonic() + PREDECESSOR_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = int(lock.read() or 0)
            if _runs(pid) or time.monotonic() > deadline:
                raise AlreadyRunning(folder, pid, kind) from None
            time.sleep(0.1)


def _runs(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
