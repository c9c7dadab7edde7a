"""A ValKey that answers, but takes no writes, counts as away: what waits for one that is gone waits for this one too.

It refuses them while its disk or its memory is full, or while it is a replica; each of these ends without anybody
sending anything else. redis-py has errors of the wrong kind for it, which nobody tries again.
"""

from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError, OutOfMemoryError, ReadOnlyError


class DiskFull(ConnectionError):
    """MISCONF: what is written cannot be kept, most likely for want of space."""


class MemoryFull(OutOfMemoryError, ConnectionError):
    """OOM: `maxmemory` is reached, and nothing may be evicted."""


class Replica(ReadOnlyError, ConnectionError):
    """READONLY: another server is the one to write to by now, or soon."""


class Unblocked(ConnectionError):
    """UNBLOCKED: the server became a replica, and whoever waited for something is to look elsewhere."""


_CODES = {"MISCONF": DiskFull, "OOM": MemoryFull, "READONLY": Replica, "UNBLOCKED": Unblocked}


def install() -> None:
    """Makes every client in this process raise these; repeatable."""
    BaseParser.EXCEPTION_CLASSES.update(_CODES)
