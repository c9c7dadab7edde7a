"""`fleet up`: a whole fleet in the foreground."""

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fleet.engines import models
from fleet.settings import load
from fleet.stack import neo4j_jars, vllm
from fleet.stack.errors import StackError
from fleet.stack.folder_lock import only_one
from fleet.stack.process import Process
from fleet.stack.processes import Fleet
from fleet.stack.scripts import script
from fleet.stack.secret_file import write_private
from fleet.stack.signals import stopped_by_signals
from fleet.stack.supervisor import Stop, Supervisor

# More than its processes and then its servers are given.
STOP_S = 30.0


def run(folder: Path, engine: str, port: int | None, on_progress: Callable[[str], None]) -> int:
    """See `fleet.stack.up`."""
    try:
        folder = folder.expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with only_one(folder):
            serve(make(folder, engine, port), on_progress)
    except StackError as error:
        on_progress(str(error))
        return 1
    except KeyboardInterrupt:  # before anything was started
        return 1
    return 0


def make(folder: Path, engine: str, port: int | None) -> Fleet:
    """The fleet, its ValKey as durable as FLEET_DURABILITY needs it. Raises: EngineRefused."""
    fleet = Fleet(folder, engine, port)
    given = vllm.settings() if engine == "vllm" else {"engine": engine}
    if load(**given).durability == "fsync":
        fleet.valkey.options = ("--appendfsync", "always")
    return fleet


def serve(fleet: Fleet, on_progress: Callable[[str], None]) -> None:
    """Runs `fleet` until SIGINT or SIGHUP (stop now), or SIGTERM (drain; a second one: stop now)."""
    fleet.announced.unlink(missing_ok=True)
    fleet.api.check_port()  # now, not after the servers' start
    if not neo4j_jars.is_fetched():
        on_progress("neo4j: fetching the server, 175 MB, once on this machine")
        neo4j_jars.fetch(on_progress)
    if fleet.engine == "local" and not models.fetched(models.DEFAULT_MODEL):
        on_progress("model: fetching SmolLM2-135M, 93 MB, once on this machine")
        models.fetch(models.DEFAULT_MODEL)
    if fleet.engine == "vllm" and vllm.small_model():
        fleet.model = vllm.make_model(on_progress)
    supervisor = FleetSupervisor(fleet, on_progress)
    with stopped_by_signals(supervisor):
        supervisor.run()


class FleetSupervisor(Supervisor):
    """Says in fleet.json where the fleet is, from when it is ready until its stop begins."""

    def __init__(self, fleet: Fleet, on_progress: Callable[[str], None]):
        super().__init__(on_progress)
        self._fleet = fleet
        self._began = time.monotonic()
        for process, stage in fleet.staged():
            self.add(process, stage)

    def servers_ready(self) -> None:
        self._fleet.connect()

    def changed(self) -> None:
        if self._stop is not Stop.NO:
            return
        if not self._fleet.announced.exists():
            self._on_progress(f"{self._fleet.api.url} ready in {time.monotonic() - self._began:.1f} s, Ctrl-C stops it")
        write_private(self._fleet.announced, json.dumps({**self._fleet.addresses(), "pids": self.pids}, indent=2))

    def stopping(self) -> None:
        self._fleet.announced.unlink(missing_ok=True)
        self._on_progress("stopping")


@contextlib.contextmanager
def embedded(
    folder: Path, engine: str, port: int | None = None, on_progress: Callable[[str], None] = lambda _: None
) -> Iterator[dict[str, Any]]:
    """Runs a fleet beside the caller for as long as the block lasts; gives what its fleet.json says.

    Raises: StartFailed.
    """
    command = [str(script("fleet")), "up", "--dir", str(folder), "--engine", engine]
    command += ["--port", str(port)] if port else []
    process = EmbeddedFleet(command, folder, on_progress)
    try:
        process.start()
        yield json.loads(process.announced.read_text())
    finally:
        process.interrupt(STOP_S)


class EmbeddedFleet(Process):
    """A `fleet up` as a child process."""

    ready_timeout_s = 900.0  # the first start on a machine fetches Neo4j

    def __init__(self, command: list[str], folder: Path, on_progress: Callable[[str], None]):
        super().__init__(command, folder / "logs" / "up.log")
        self.announced = folder / "fleet.json"
        self._on_progress, self._told = on_progress, 0

    def ready(self) -> bool:
        lines = self.output().splitlines(keepends=True)
        whole = [line.rstrip() for line in lines if line.endswith("\n")]
        for line in whole[self._told :]:
            self._on_progress(line)
        self._told = len(whole)
        return self.alive and self.announced.exists()

    def interrupt(self, timeout_s: float) -> None:
        """Stops it as Ctrl-C would."""
        if self.popen and self.alive:
            self.popen.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout_s)
        self.stop()
