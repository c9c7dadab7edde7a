"""The processes that `fleet up` starts, each with an environment of its own."""

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx2

from fleet.stack.process import Process, start_all
from fleet.stack.processes import Fleet
from fleet.store import Store
from fleet.store.base import connect
from tests.harness import ValkeyServer, wait_until

SKEWED = Path(__file__).parent / "skewed"
FINAL = {"COMPLETED", "PARTIAL", "FAILED", "CANCELLED"}


def skew(seconds: float) -> dict[str, str]:
    """The environment of a process on a machine whose clock is wrong by this much."""
    return {"PYTHONPATH": str(SKEWED), "CLOCK_SKEW_S": str(seconds)}


class Bench:
    """The servers and processes in `folder`; `env` is by a process's name ("api", "listener", "worker-agents", …)."""

    def __init__(self, folder: Path, valkey: ValkeyServer | None = None, **env: str):
        self.fleet = Fleet(folder, "scripted", None)
        self.fleet.valkey = valkey or self.fleet.valkey
        self._env = env
        self.servers: list[Process] = [self.fleet.valkey, self.fleet.nats, self.fleet.neo4j]
        self.processes = [self.fleet.listener, *self.fleet.workers, self.fleet.api]

    def start(self, own: dict[str, dict[str, str]] | None = None) -> None:
        start_all(self.servers)
        self.fleet.connect()
        for process in self.processes:
            process.env.update(self._env | (own or {}).get(process.name, {}))
        start_all(self.processes)

    def stop(self) -> None:
        for process in reversed([*self.servers, *self.processes]):
            process.kill()

    def process(self, name: str) -> Process:
        return next(process for process in self.processes if process.name == name)

    @property
    def http(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.fleet.api_key}"}
        return httpx2.Client(base_url=self.fleet.api.url, headers=headers, timeout=60)

    def store(self) -> Store:
        return Store(connect(self.fleet.valkey.url))

    def submit(self, plan: dict[str, Any]) -> list[str]:
        answer = self.http.post("/v1/plans", json=plan)
        assert answer.status_code == 202, answer.text
        return [one["deliberation_id"] for one in answer.json()["deliberations"]]

    def final(self, ids: Iterable[str], timeout_s: float = 60) -> list[dict[str, Any]]:
        """The deliberations, once all are final."""

        def look(id: str) -> dict[str, Any] | None:
            found: dict[str, Any] = self.http.get(f"/v1/deliberations/{id}", params={"wait": 5}).json()
            return found if found.get("status") in FINAL else None

        return [wait_until(lambda id=id: look(id), timeout_s, f"{id} is final") or {} for id in ids]  # type: ignore[misc]

    def events(self, path: str = "/v1/events") -> list[dict[str, Any]]:
        """What the stream has up to now: the payloads, each with its id and its subject."""
        text = self.http.get(path, params={"follow": "false"}).text
        frames = [dict(line.split(": ", 1) for line in frame.splitlines()) for frame in text.split("\n\n") if frame]
        return [
            {**json.loads(frame["data"]), "id": frame["id"], "subject": frame["event"]}
            for frame in frames
            if "data" in frame
        ]


def new_plan(**changes: Any) -> dict[str, Any]:
    id = uuid.uuid4().hex[:8]
    plan = {"plan_id": f"plan-{id}", "story_id": f"story-{id}", "title": "Reset a password", "roles": ["DEV"]}
    return {**plan, "description": "Write the function.", "approved_by": "po", "rounds": 1, **changes}
