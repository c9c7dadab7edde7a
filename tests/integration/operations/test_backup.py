"""The servers' own ways to be saved while they serve, as docs/how-to/backup.md describes them."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from tests.harness import ValkeyServer, running, wait_until


def test_a_copy_of_a_serving_valkeys_files_has_all_that_was_written_before_it(
    tmp_path: Path, new_valkey: Callable[..., ValkeyServer]
) -> None:
    server, stop, written = new_valkey(), threading.Event(), []

    def write() -> None:
        with server.client() as client:
            while not stop.is_set():
                written.append(client.rpush("list", len(written)))

    with server.client() as client:
        writer = threading.Thread(target=write)
        writer.start()
        try:
            wait_until(lambda: len(written) > 100, what="writes")
            client.config_set("auto-aof-rewrite-percentage", 0)
            client.bgrewriteaof()
            wait_until(lambda: rests(client.info("persistence")), what="the rewrite is over")
            many = len(written)
            shutil.copytree(server.folder / "appendonlydir", tmp_path / "copy" / "appendonlydir")
        finally:
            stop.set()
            writer.join()
    with running(ValkeyServer(tmp_path / "copy")) as copy, copy.client() as client:
        found = client.lrange("list", 0, -1)
        assert len(found) >= many
        assert found == [str(number) for number in range(len(found))]


def rests(info: dict[str, int]) -> bool:
    return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]
