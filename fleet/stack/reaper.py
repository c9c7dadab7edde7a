"""A small process that ends what this process started, should this process end without doing so itself.

Every child leads a process group and announces itself before it becomes its program, so there is no instant at which a
`kill -9` of the parent leaves one behind. The pipe tells: it closes when the last holder of its write end is gone.
Unlike PR_SET_PDEATHSIG this reaches grandchildren, does not depend on the thread that forked, and exists on macOS.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

SCRIPT = Path(__file__).with_name("reaper_main.py")

_lock = threading.Lock()
_held: list[int] = []
_current: "Reaper | None" = None


class Reaper:
    """The write end of the pipe, the process behind it and the groups it answers for."""

    def __init__(self, groups: set[int] | None = None):
        self.owner = os.getpid()
        self.groups: set[int] = groups or set()
        reading, self._pipe = os.pipe()
        # A session of its own: neither Ctrl-C nor the end of the terminal may reach it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SCRIPT)],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=_held,
        )
        os.close(reading)
        for group in self.groups:
            self._tell(b"+%d\n" % group)

    @property
    def usable(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def announcement(self) -> Callable[[], None]:
        """Returns what a new child calls between fork and exec: one write, which takes no lock."""
        pipe = self._pipe

        def announce() -> None:
            os.write(pipe, b"+%d\n" % os.getpid())

        return announce

    def forget(self, group: int) -> None:
        self.groups.discard(group)
        self._tell(b"-%d\n" % group)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._pipe)

    def _tell(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it was killed: the next `reaper()` starts another
            os.write(self._pipe, message)


def hold(file: int) -> None:
    """Keeps the file descriptor open until what this process started has ended; call it before the first start.

    With a lock on the file, a successor of a killed process waits until nothing of it is left.
    """
    _held.append(file)


def reaper() -> Reaper:
    """Returns this process's reaper, started on first use and again when it was killed."""
    global _current
    with _lock:
        if _current is None or not _current.usable:
            inherited = _current.groups if _current and _current.owner == os.getpid() else None
            if _current:
                _current.close()
            _current = Reaper(inherited)
        return _current
