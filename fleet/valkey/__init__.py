"""Durable Celery on ValKey: chords that end exactly once, workers that outlive the server. README.md tells how."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleet.valkey.signing import Signer


def install(
    app: Any,
    sweep_queues: Iterable[str] | None = None,
    sweep_interval: float = 0.7,
    signer: "Signer | None" = None,
) -> None:
    """Adds to a Celery application what its workers need; call it once, where the application is made.

    Every worker guards chord bodies. A sweeper runs in the workers that consume one of `sweep_queues` (None: in all
    workers); it needs at least one, better two, and looks every `sweep_interval` seconds. The hardened transport
    replaces kombu's for `redis://` and `rediss://` in this process, and a server that takes no writes counts as away.

    With a `signer` every message that is published here and every chord's stored body is signed, and only a body with
    a signature is published. A worker's consumer has to check messages: `app.message_signer.accepts(message)`.
    """
    from fleet.valkey import refusals, transport
    from fleet.valkey.sweeper import GuardBodies, Sweeper

    app.message_signer = signer
    if signer:
        signer.install()
    refusals.install()
    transport.install()
    queues = None if sweep_queues is None else frozenset(sweep_queues)
    configured = type("ChordSweeper", (Sweeper,), {"queues": queues, "interval": sweep_interval})
    app.steps["worker"].update({GuardBodies, configured})
