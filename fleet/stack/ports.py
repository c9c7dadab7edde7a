"""Free ports of 127.0.0.1."""

import random
import socket
from pathlib import Path

EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 12_000


def is_free(port: int) -> bool:
    """True when a server could listen on `port` now; closing connections of a former one do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Returns a port that nobody listens on, out of the range from which the system numbers outgoing connections.

    A port within that range can be lost while its server is away: a client that keeps connecting to it
    is sooner or later given that very port as its own and then talks to itself.
    """
    for _ in range(200):
        port = random.randrange(LOWEST, _ephemeral_start())
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ephemeral_start() -> int:
    try:
        start = int(EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        start = 32_768
    return max(start, LOWEST + 1_000)
