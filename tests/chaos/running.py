"""A running cluster, seen from outside: where its servers are, which processes it has and when each was ready."""

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

from fleet.stack.process import Process
from tests.harness import wait_until

_READY = re.compile(r"^(\S+): ready \(")
START_S = 300.0
REQUEST_S = 3.0  # the fleet's patience with its engine


class Running:
    """A `tests.chaos.cluster` as a child process, with its data in `folder`."""

    def __init__(self, folder: Path, engine_url: str, **settings: str):
        given = {"FLEET_ENGINE_URL": engine_url, "FLEET_REQUEST_TIMEOUT_S": str(REQUEST_S), "WEB_CONCURRENCY": "1"}
        given |= {"FLEET_DELIBERATION_RETENTION_S": "86400", "FLEET_BREAKER_OPEN_S": "2"}
        command = [sys.executable, "-m", "tests.chaos.cluster", str(folder)]
        self.folder = folder
        self.process = Process(command, folder.parent / "cluster.log", env={**given, **settings})
        self.ready_at: dict[str, list[float]] = defaultdict(list)  # by process, in Unix seconds
        self._over = threading.Event()

    def start(self) -> None:
        self.process.start()
        threading.Thread(target=self._watch, daemon=True).start()
        wait_until(lambda: self._announced.exists() or not self.process.alive, START_S, "the cluster is ready")
        assert self.process.alive, self.process.output()

    def stop(self) -> None:
        self._over.set()
        self.process.stop(60)

    @property
    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._announced.read_text())
        return found

    def apis(self) -> list[str]:
        return [self.details["api_url"], self.details["second_api_url"]]

    def process_of(self, name: str) -> psutil.Process | None:
        """The process of that name, unless it is dead and not started again yet."""
        with contextlib.suppress(psutil.NoSuchProcess, KeyError):
            found = psutil.Process(self.details["pids"][name])
            return found if found.status() != psutil.STATUS_ZOMBIE else None
        return None

    def ready_since(self, name: str, when_s: float) -> bool:
        """Whether it was started again and ready since then."""
        return any(at_s > when_s for at_s in self.ready_at[name])

    @property
    def _announced(self) -> Path:
        return self.folder / "fleet.json"

    def _watch(self) -> None:
        """Reads from the cluster's own output when each process was ready."""
        told = 0
        while not self._over.is_set():
            lines = self.process.output().splitlines()
            for line in lines[told:]:
                if match := _READY.match(line):
                    self.ready_at[match[1]].append(time.time())
            told = len(lines)
            time.sleep(0.05)


def signal_all(process: psutil.Process, number: signal.Signals) -> None:
    """The signal to the process and everything in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
