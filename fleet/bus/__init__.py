"""NATS in and out: the listener process.

process   builds the listener from the settings, runs it            listener   connection, health record, end
consumers planning events → plans and the graph; acks, dead letters relay      event log → NATS, once and in order
streams   which stream keeps which subject                          tokens     what agents write → NATS, while they do
"""

from fleet.settings import Settings

__all__ = ["run"]


def run(settings: Settings) -> int:
    """Listens until SIGTERM or SIGINT; returns the exit status."""
    from fleet.bus.process import run  # needs Celery and Neo4j's driver, which the rest of the package does not

    return run(settings)
