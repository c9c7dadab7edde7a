"""Which servers are away, said once per change, and how failures that heal are told from those that do not."""

import asyncio
import random

import nats.errors
import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from fleet.errors import Unavailable

log = structlog.get_logger(__name__)

HEALS = (RedisError, OperationalError, Unavailable)
NATS_ERRORS = (nats.errors.Error, OSError)  # nats.errors.TimeoutError is an OSError


def server_of(error: BaseException) -> str:
    """The server that an error in `HEALS` tells of."""
    return error.server if isinstance(error, Unavailable) else "valkey"


class Servers:
    """What the parts of one listener know of its servers. Not thread-safe: for the event loop only."""

    def __init__(self) -> None:
        self._away: set[str] = set()

    def away(self, server: str, error: BaseException) -> None:
        if server not in self._away:
            self._away.add(server)
            log.warning("server_away", server=server, reason=f"{type(error).__name__}: {error}")

    def back(self, server: str) -> None:
        if server in self._away:
            self._away.discard(server)
            log.info("server_back", server=server)

    def is_away(self, server: str) -> bool:
        return server in self._away


def delay_s(attempt: int, first: float = 0.5, cap: float = 30.0) -> float:
    """Seconds to wait after the failed attempt `attempt` (1, 2, …): doubling up to `cap`, the half of it random."""
    return min(cap, first * 2.0 ** min(attempt - 1, 30)) * random.uniform(0.5, 1)


async def wait(over: asyncio.Event, seconds: float) -> bool:
    """Waits until `over` is set, at most `seconds`; True when it is."""
    try:
        async with asyncio.timeout(seconds):
            return await over.wait()
    except TimeoutError:
        return False
