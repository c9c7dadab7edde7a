"""A Valkey that takes writes and does not say that they are on its disk, for as long as a test wants it."""

from tests.harness import ValkeyServer, wait_until

_KEY_S = 30


def stop_confirming(server: ValkeyServer) -> None:
    """WAITAOF times out from now on: the append-only file is written anew, which takes half a minute."""
    with server.client() as client:
        client.set("to write", "anew")
        client.config_set("rdb-key-save-delay", str(_KEY_S * 1_000_000))
        client.config_set("appendonly", "no")
        client.config_set("appendonly", "yes")


def confirm_again(server: ValkeyServer) -> None:
    """Returns when all that was written is on disk."""
    with server.client() as client:
        client.config_set("rdb-key-save-delay", "0")
        client.config_set("appendonly", "no")
        client.config_set("appendonly", "yes")
        wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, what="the file is written anew")
