"""What a process and its children use of their machine, from /proc; where there is none, nothing is measured."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
_UTIME = 11  # its place in /proc/PID/stat behind the name; stime, cutime and cstime follow


def host_memory_mb() -> float | None:
    """What the machine has, in MiB."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * _PAGE_MB, 1)
    except (OSError, ValueError):
        return None


class Usage:
    """Measures the tree of processes below `pid`."""

    def __init__(self, pid: int):
        self._pid = pid
        self._last: tuple[float, float] | None = None

    def memory_mb(self) -> float | None:
        """Resident memory in MiB; pages that several processes share count for each."""
        sizes = [float(text.split()[1]) for pid in _tree(self._pid) if (text := _read(pid, "statm"))]
        return round(sum(sizes) * _PAGE_MB, 1) if sizes else None

    def cpu_percent(self) -> float | None:
        """Processor time per time since the call before, 100 being one core; None at the first."""
        now, used = time.monotonic(), sum(map(_cpu_s, _tree(self._pid)))
        before, self._last = self._last, (now, used)
        if before is None or not used or now <= before[0]:
            return None
        return round(max(0.0, 100 * (used - before[1]) / (now - before[0])), 1)


def _tree(pid: int) -> Iterator[int]:
    """The process and everything below it."""
    yield pid
    for children in (_PROC / str(pid) / "task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue
        for child in found:
            yield from _tree(int(child))


def _cpu_s(pid: int) -> float:
    """Its own time and that of its children that have ended."""
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return sum(map(int, fields[_UTIME : _UTIME + 4])) * _TICK_S


def _read(pid: int, name: str) -> str:
    try:
        return (_PROC / str(pid) / name).read_text()
    except OSError:  # it has ended, or there is no /proc
        return ""
