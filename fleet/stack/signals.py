"""What signals mean to a process that runs a supervisor in the foreground."""

import contextlib
import signal
from collections.abc import Iterator

from fleet.stack.supervisor import Stop, Supervisor


@contextlib.contextmanager
def stopped_by_signals(supervisor: Supervisor) -> Iterator[None]:
    """SIGINT and SIGHUP stop `supervisor` now, SIGTERM lets it drain; a second one of a kind: now."""
    meaning = {signal.SIGINT: Stop.NOW, signal.SIGHUP: Stop.NOW, signal.SIGTERM: Stop.DRAIN}
    seen: list[int] = []

    def handle(number: int, _: object) -> None:
        supervisor.request_stop(Stop.NOW if number in seen else meaning[signal.Signals(number)])
        seen.append(number)

    # nohup ignores SIGHUP, and that is to stay so.
    before = {number: signal.getsignal(number) for number in meaning}
    for number in (number for number in meaning if before[number] is not signal.SIG_IGN):
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
