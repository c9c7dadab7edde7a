"""The servers and processes of a one-machine fleet.

fleet.stack.up(folder, engine, port, on_progress)      everything, until it is told to stop
fleet.stack.servers                                    Valkey, NATS and Neo4j, each started and stopped by itself
fleet.stack.supervisor                                 what keeps named processes running
"""

from collections.abc import Callable
from pathlib import Path


def up(folder: Path, engine: str, port: int | None, on_progress: Callable[[str], None]) -> int:
    """Runs a whole fleet with its data under `folder` until it is stopped; returns the exit code.

    Ctrl-C stops it within seconds, SIGTERM lets running work end first. `folder`/fleet.json is there
    from when everything is ready until the stop begins.
    """
    # Imported here: the Neo4j process loads this package too and has no use for the rest.
    from fleet.stack.one_machine import run

    return run(folder, engine, port, on_progress)
