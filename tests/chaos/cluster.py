"""The fleet that is tried: what `fleet up` starts, with two each of API, listener and worker.

`python -m tests.chaos.cluster DIR` runs it as `fleet up` would, and says so in DIR/fleet.json.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from fleet.stack import supervisor
from fleet.stack.celery_worker import CeleryWorker
from fleet.stack.folder_lock import only_one
from fleet.stack.one_machine import serve
from fleet.stack.process import Process
from fleet.stack.processes import Api, Fleet
from fleet.stack.scripts import script
from fleet.stack.supervisor import Stage


class Cluster(Fleet):
    """Engine "openai", whose server FLEET_ENGINE_URL names."""

    def __init__(self, folder: Path):
        super().__init__(folder, "openai", None)
        self.second_api = Api(self._log("api-2"), env={"FLEET_API_KEY": self.api_key})
        self.second_listener = Process([str(script("fleet")), "listener"], self._log("listener-2"))

    def _make_workers(self) -> list[CeleryWorker]:
        prefork = ["-Q", "agents", "-P", "prefork", "-c", "2"]
        return [*super()._make_workers(), CeleryWorker("prefork", "fleet", prefork, self._log("worker-prefork"), {})]

    def staged(self) -> Iterator[tuple[Process, Stage]]:
        yield from super().staged()
        yield self.second_listener, Stage.BRIDGE
        yield self.second_api, Stage.FRONT

    def connect(self) -> None:
        super().connect()
        for process in (self.second_api, self.second_listener):
            process.env.update(self.settings())

    def addresses(self) -> dict[str, str]:
        return {**super().addresses(), "second_api_url": self.second_api.url}


if __name__ == "__main__":
    # By default a process that ends again and again is left alone for up to 30 s: here it always does.
    supervisor.LONGEST_BACKOFF_S = 2.0
    made = Path(sys.argv[1]).absolute()
    made.mkdir(parents=True, exist_ok=True)
    with only_one(made):
        serve(Cluster(made), lambda line: print(line, flush=True))
