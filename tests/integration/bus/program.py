"""A listener whose plans are stored, but not enqueued.

DIE_ONCE_BEFORE_ACK=FILE: dies after a plan is stored and before its ack, unless the file is there already.
ACK_WAIT_S, LEASE_S: seconds, shorter than the real ones where a test has to wait for their end.
"""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

from fleet.bus import relay
from fleet.bus.consumers import consumers
from fleet.bus.listener import Listener, until_signalled
from fleet.models import PlanRequest, StoryTransition
from fleet.settings import Settings
from fleet.store import Store
from tests.integration.bus.harness import store_plan


def main() -> None:
    settings = Settings()
    store = Store.from_settings(settings)
    die_once = os.environ.get("DIE_ONCE_BEFORE_ACK")

    def submit(plan: PlanRequest) -> None:
        store_plan(store, plan)
        if die_once and not Path(die_once).exists():
            Path(die_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def record(transition: StoryTransition) -> None:
        store.client.rpush("test:transitions", transition.dump())

    relay.LEASE_S = float(os.environ.get("LEASE_S", relay.LEASE_S))
    ack_wait_s = float(os.environ.get("ACK_WAIT_S", "30"))
    work = tuple(replace(consumer, ack_wait_s=ack_wait_s) for consumer in consumers(submit, record))
    listener = Listener(settings.nats_url.get_secret_value(), store, work)
    asyncio.run(until_signalled(listener))


if __name__ == "__main__":
    main()
