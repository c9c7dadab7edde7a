"""Reads `+GROUP` and `-GROUP` lines until its parent is gone, then ends the groups that are left."""

import contextlib
import os
import signal
import sys
import time

GRACE_S = 3.0


def signal_groups(groups: set[int], number: int) -> set[int]:
    """Returns the groups that still existed."""
    left = set()
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            left.add(group)
    return left


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    left = signal_groups(groups, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = signal_groups(left, 0)
    signal_groups(left, signal.SIGKILL)


if __name__ == "__main__":
    main()
