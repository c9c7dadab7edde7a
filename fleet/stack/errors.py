"""What can go wrong when processes are started.

FleetError
└── StackError
    ├── AlreadyRunning     another `fleet up`, or GPU launcher, holds the folder
    ├── PortTaken          somebody else listens there
    ├── StartFailed        a process ended, or was not ready in time
    ├── EngineRefused      the engine that was asked for cannot run here
    └── FetchFailed        Neo4j's jars could not be fetched, or are not the files they should be
"""

from pathlib import Path

from fleet.errors import FleetError


class StackError(FleetError):
    """Base of the errors of `fleet.stack`."""


class AlreadyRunning(StackError):
    """A `kind` of process with the id `pid` (0: not known) runs in `folder`."""

    def __init__(self, folder: Path, pid: int, kind: str = "a fleet"):
        super().__init__(folder, pid, kind)
        self.folder, self.pid, self.kind = folder, pid, kind

    def __str__(self) -> str:
        return f"{self.kind} is running in {self.folder} already (pid {self.pid or 'unknown'})"


class PortTaken(StackError):
    """`name` cannot listen on `port`."""

    def __init__(self, name: str, port: int):
        super().__init__(name, port)
        self.name, self.port = name, port

    def __str__(self) -> str:
        return f"{self.name}: port {self.port} of 127.0.0.1 is taken"


class StartFailed(StackError):
    """`name` did not become ready; `tail` is the end of its log."""

    def __init__(self, name: str, reason: str, log: Path, tail: str):
        super().__init__(name, reason, log, tail)
        self.name, self.reason, self.log, self.tail = name, reason, log, tail

    def __str__(self) -> str:
        return f"{self.name} {self.reason}; end of {self.log}:\n{self.tail}"


class EngineRefused(StackError):
    """The engine cannot run on this machine."""


class FetchFailed(StackError):
    """Neo4j's jars are not there."""
