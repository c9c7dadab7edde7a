"""deploy/valkey/users.acl lets each kind of process do its work, and nothing else."""

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import nats
import pytest
import redis

from tests.harness import NatsServer, Process, ValkeyServer, free_port, running, wait_until
from tests.integration.security.conftest import GPU, ROOT, Bench
from tests.integration.security.test_messages import task

KINDS = ("api", "listener", "council", "agents", "flower")
KEY = "k" * 32
HEADERS = {"Authorization": f"Bearer {KEY}"}
PASSWORD = "a password of {}'s"


@pytest.fixture
def valkey(new_valkey: Callable[..., ValkeyServer], tmp_path: Path) -> ValkeyServer:
    """A ValKey with the users of the file."""
    rules = (ROOT / "deploy/valkey/users.acl").read_text()
    for kind in KINDS:
        rules = rules.replace(f"{kind.upper()}_SHA256", hashlib.sha256(PASSWORD.format(kind).encode()).hexdigest())
    file = tmp_path / "users.acl"
    file.write_text(rules)
    return new_valkey("--include", str(file))


def url(valkey: ValkeyServer, kind: str) -> str:
    return f"redis://fleet-{kind}:{PASSWORD.format(kind).replace(' ', '%20')}@127.0.0.1:{valkey.port}/0"


def denied(valkey: ValkeyServer) -> list[tuple[str, str, str]]:
    """Who was not let do what, and with which key."""
    with valkey.client() as admin:
        return [(entry["username"], entry["context"], entry["object"]) for entry in admin.acl_log()]


class Api(Process):
    """The API as it is served, and its clients' view of it."""

    def __init__(self, bench: Bench):
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "fleet.api:create_app()"]
        env = {**bench.environment(), "FLEET_API_BIND": self.url.removeprefix("http://"), "WEB_CONCURRENCY": "1"}
        super().__init__(command, bench.folder / "api.log", env, ROOT)

    def ask(self, method: str, path: str, **content: Any) -> httpx2.Response:
        return httpx2.request(method, self.url + path, headers=HEADERS, timeout=30, **content)

    def submit(self) -> str:
        asked = {"task_description": "Write it", "role": "DEV", "num_agents": 2, "rounds": 1}
        answer = self.ask("POST", "/v1/deliberations", json=asked)
        assert answer.status_code == 202, answer.text
        id: str = answer.json()["deliberation_id"]
        return id

    def ready(self) -> bool:
        try:
            return self.alive and self.ask("GET", "/livez").is_success
        except httpx2.TransportError:
            return False


@pytest.fixture
def api(new_bench: Callable[..., Bench], valkey: ValkeyServer) -> Iterator[tuple[Bench, Api]]:
    bench = new_bench(valkey_url=url(valkey, "api"), api_key=KEY)
    with running(Api(bench)) as served:
        yield bench, served


def test_a_fleet_works_with_a_user_for_each_kind_of_process(
    api: tuple[Bench, Api], valkey: ValkeyServer, nats_server: NatsServer
) -> None:
    bench, served = api
    listener = {**bench.environment(), "FLEET_VALKEY_URL": url(valkey, "listener"), "FLEET_NATS_URL": nats_server.url}
    command = [sys.executable, "-m", "fleet.cli", "listener"]
    log = bench.folder / "listener.log"
    with running(Process(command, log, {**listener, "FLEET_NATS_ENABLED": "true"}, ROOT)):
        bench.worker("agents", FLEET_VALKEY_URL=url(valkey, "agents"))
        bench.worker("gpu", GPU, FLEET_VALKEY_URL=url(valkey, "agents"))
        bench.worker("council", FLEET_VALKEY_URL=url(valkey, "council"))
        bench.await_decided(served.submit())
        plan = {"plan_id": f"p-{nats_server.port}", "story_id": "s", "approved_by": "po", "roles": ["DEV"]}
        asyncio.run(publish(nats_server.url, {**plan, "timestamp": "2026-01-01T00:00:00Z"}))
        found = wait_until(lambda: bench.store.submissions.plan(plan["plan_id"]), 60, "the plan is accepted")
        bench.await_decided(found.receipt.deliberations[0].deliberation_id)
        for queue in ("agents", "gpu", "council"):
            bench.store.client.lpush(queue, task(f"no task of {queue}"))
        [letter, *_] = bench.await_letters(3)
        wait_until(lambda: not bench.store.events.backlog(), 60, "the events are relayed")
        for path in ("stats", "queues", "cluster", "councils", "deliberations", "plans", "keys"):
            assert served.ask("GET", f"/v1/{path}").is_success, path
        assert served.ask("DELETE", f"/v1/deadletters/{letter.dead_letter_id}").is_success
        assert served.ask("POST", "/v1/keys", json={"name": "one", "scopes": ["read"]}).is_success
        assert served.ask("GET", "/metrics").is_success
    assert denied(valkey) == []


async def publish(url: str, plan: dict[str, Any]) -> None:
    connection = await nats.connect(url)
    await connection.jetstream().publish("planning.plan.approved", json.dumps(plan).encode())
    await connection.close()


DENIED = {
    "api": [
        "FLUSHALL",
        "CONFIG GET *",
        "KEYS *",
        "SHUTDOWN",
        "RPOP agents",
        "LRANGE agents 0 -1",
        "GET celery-task-meta-x",
    ],
    "listener": ["FLUSHALL", "CONFIG GET *", "HGETALL fleet:keys", "RPOP agents", "GET fleet:idempotency:x"],
    "council": ["FLUSHALL", "CONFIG GET *", "HGETALL fleet:keys", "SET fleet:plan:x y", "GET fleet:idempotency:x"],
    "agents": [
        *("FLUSHALL", "CONFIG GET *", "HGETALL fleet:keys", "DEL fleet:keys", "GET fleet:plan:x", "SCRIPT FLUSH"),
        *("RPOP council", "GET fleet:idempotency:x", "EVAL return(redis.call('HGETALL','fleet:keys')) 0"),
    ],
    "flower": [
        "FLUSHALL",
        "CONFIG GET *",
        "HGETALL fleet:keys",
        "GET fleet:deliberation:x",
        "RPOP agents",
        *("DEL agents", "LPUSH agents x"),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_may_not_do_what_its_kind_of_process_never_does(valkey: ValkeyServer, kind: str) -> None:
    with redis.Redis.from_url(url(valkey, kind)) as client:
        assert client.ping()
        for command in DENIED[kind]:
            with pytest.raises(redis.ResponseError, match="permission"):
                client.execute_command(*command.split(" "))


@pytest.mark.parametrize(("kind", "command"), [("listener", "SET fleet:durable x"), ("flower", "LLEN agents")])
def test_a_user_may_do_what_its_kind_of_process_does(valkey: ValkeyServer, kind: str, command: str) -> None:
    with redis.Redis.from_url(url(valkey, kind)) as client:
        client.execute_command(*command.split(" "))
