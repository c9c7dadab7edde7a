"""Workers of `chord_app` on a real ValKey."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Process, ValkeyServer, wait_until
from tests.integration.valkey.chord_app import make_app

ROOT = Path(__file__).resolve().parents[3]


class ChordBench:
    """A ValKey, a producer with `durable` or Celery's own backend, workers, and the trace that their tasks write."""

    def __init__(self, folder: Path, stack: ExitStack, durable: bool = True, database: int = 0,
                 valkey: ValkeyServer | None = None):  # fmt: skip
        self.folder, self.stack, self.durable = folder, stack, durable
        self.valkey = valkey or ValkeyServer(folder)
        if valkey is None:
            self.valkey.start()
            stack.callback(self.valkey.stop)
        self.url = self.valkey.url.removesuffix("/0") + f"/{database}"
        self.app = make_app(self.url, durable)
        stack.callback(self.app.close)

    def s(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.app.signature(name, args=args, kwargs=kwargs)

    def si(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.app.signature(name, args=args, kwargs=kwargs, immutable=True)

    def worker(self, node: str = "w", pool: str = "threads", slots: int = 4, queues: str = "chord-test",
               module: str = "tests.integration.valkey.chord_app", **env: str) -> Process:  # fmt: skip
        command = [sys.executable, "-m", "celery", "-A", module, "worker", "-P", pool, "-c", str(slots), "-Q", queues,
                   "-n", f"{node}@test", "-l", "INFO", "--without-gossip", "--without-mingle"]  # fmt: skip
        backend = "durable" if self.durable else "stock"
        base = {"TEST_FOLDER": str(self.folder), "TEST_BROKER": self.url, "TEST_BACKEND": backend}
        process = Process(command, self.folder / f"{node}.log", {**base, **env}, ROOT)
        process.start()
        self.stack.callback(process.kill)
        wait_until(lambda: "ready." in process.output(), what=f"worker {node} is ready")
        return process

    def trace(self, prefix: str) -> list[str]:
        trace = self.folder / "trace"
        lines = trace.read_text().splitlines() if trace.exists() else []
        return [line for line in lines if line.startswith(prefix)]

    def await_trace(self, prefix: str, count: int = 1, within_s: float = 20) -> list[str]:
        wait_until(lambda: len(self.trace(prefix)) >= count, within_s, f"{count} of {prefix!r} in the trace")
        return self.trace(prefix)

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    def state(self, group_id: str) -> str | None:
        record = self.app.backend.chord_state(group_id)
        return record["state"] if record else None

    def await_state(self, group_id: str, state: str, within_s: float = 20) -> None:
        wait_until(lambda: self.state(group_id) == state, within_s, f"chord {group_id} is {state}")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ChordBench]:
    with ExitStack() as stack:
        yield ChordBench(tmp_path, stack)
