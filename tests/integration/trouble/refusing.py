"""A Valkey that answers and takes no writes, for as long as a test wants it."""

import resource

import redis

from tests.harness import ValkeyServer, wait_until

NO_LIMIT = resource.RLIM_INFINITY
REASONS = ("disk", "memory", "replica")


class RefusingValkey(ValkeyServer):
    """Refuses writes because its disk or its memory is full, or because it is a replica."""

    def configure(self) -> None:
        super().configure()
        # The signal that goes with a write beyond the limit on a file's size would end the process.
        self.command = ["sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", *self.command]

    def refuse(self, reason: str) -> None:
        """Returns when no write is taken any more."""
        with self.client() as client:
            if reason == "disk":  # no file of the process may grow, which fails a write as a full disk does
                size = max(path.stat().st_size for path in self.folder.glob("appendonlydir/*.aof"))
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, NO_LIMIT))
            elif reason == "memory":
                client.config_set("maxmemory", "1")
            else:
                client.replicaof("127.0.0.1", "1")
            wait_until(lambda: not _takes_writes(client), what="writes are refused")

    def accept(self, reason: str) -> None:
        """Returns when writes are taken again."""
        with self.client() as client:
            if reason == "disk":
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))
            elif reason == "memory":
                client.config_set("maxmemory", "0")
            else:
                client.replicaof("NO", "ONE")
            wait_until(lambda: _takes_writes(client), what="writes are taken")


def _takes_writes(client: "redis.Redis") -> bool:
    try:
        client.set("written", "x" * 1000)
    except redis.RedisError:
        return False
    return True
