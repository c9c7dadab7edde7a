"""One wait for ValKey's disk for all events that were worked on meanwhile."""

import asyncio
from collections.abc import Callable


class Commits:
    """Calls `confirm`, which blocks, in a thread: once for everybody who waits. Not thread-safe: for the event loop."""

    def __init__(self, confirm: Callable[[], None]):
        self._confirm = confirm
        self._waiting: list[asyncio.Future[None]] = []
        self._running: asyncio.Task[None] | None = None

    async def done(self) -> None:
        """Returns after a call of `confirm` that began after this one; raises what it raised."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await waiter

    async def _run(self) -> None:
        while self._waiting:
            served, self._waiting = self._waiting, []
            (outcome,) = await asyncio.gather(asyncio.to_thread(self._confirm), return_exceptions=True)
            for waiter in served:
                if waiter.done():  # its event was given up
                    continue
                if isinstance(outcome, BaseException):
                    waiter.set_exception(outcome)
                else:
                    waiter.set_result(None)
        self._running = None
