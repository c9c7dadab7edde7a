"""A Celery worker as a child process."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fleet.stack.process import Process


class CeleryWorker(Process):
    """A Celery worker; ready when it says so, for `inspect ping` takes seconds and a connection."""

    ready_timeout_s = 180.0

    def __init__(self, name: str, app: str, options: Sequence[str], log: Path, env: Mapping[str, str | None]):
        node = name.replace("-", "")
        common = ["-n", f"{node}@%h", "-E", "-l", "INFO"]
        command = [sys.executable, "-m", "celery", "-A", app, "worker", *common, *options]
        super().__init__(command, log, env, name=f"worker-{name}")
        self._ready_line = re.compile(rf"\b{node}@\S+ ready\.")

    def ready(self) -> bool:
        return self.alive and bool(self._ready_line.search(self.output()))
