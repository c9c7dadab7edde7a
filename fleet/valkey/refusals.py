"""A ValKey that answers, but takes no writes, counts as away: what waits for one that is gone waits for this one too.

It refuses them while its disk or its memory is full, or while it is a replica; each of these ends without anybody
sending anything else. redis-py has errors of the wrong kind for it, which nobody tries again.
"""

from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError, OutOfMemoryError, ReadOnlyError


class Refusal(ConnectionError):
    """Base of them all."""


class DiskFull(Refusal):
    """MISCONF: what is written cannot be kept, most likely for want of space."""


class MemoryFull(OutOfMemoryError, Refusal):
    """OOM: `maxmemory` is reached, and nothing may be evicted."""


class Replica(ReadOnlyError, Refusal):
    """READONLY: another server is the one to write to by now, or soon."""


class Unblocked(Refusal):
    """UNBLOCKED: the server became a replica, and whoever waited for something is to look elsewhere."""


_CODES = {"MISCONF": DiskFull, "OOM": MemoryFull, "READONLY": Replica, "UNBLOCKED": Unblocked}


def install() -> None:
    """Makes every client in this process raise these; repeatable."""
    BaseParser.EXCEPTION_CLASSES.update(_CODES)
