"""What schemathesis makes up from /openapi.json, valid and not, sent to the API as gunicorn serves it.

It tries every operation in three ways (each edge of each schema, random values, chains of calls) with all its checks;
`schemathesis.toml` says what is off, where and why. The edges are the same in every run; what is random begins with the
same seed and goes on for 20 seconds, or for as many as SCHEMATHESIS_SECONDS asks for:

    SCHEMATHESIS_SECONDS=600 pytest tests/integration/api/test_schemathesis.py
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fleet.events import PLAN_APPROVED
from fleet.settings import Settings
from fleet.store import Store
from tests.harness import Neo4jServer, ValkeyServer
from tests.integration.api.conftest import KEY, Gunicorn, documented_api
from tests.integration.bus.harness import plan_event

SECONDS = os.environ.get("SCHEMATHESIS_SECONDS", "")


def bury(valkey: ValkeyServer, count: int) -> None:
    """Leaves dead letters: no call of the API makes one."""
    with closing(Store.from_settings(Settings(valkey_url=valkey.url))) as store:
        for number in range(count):
            store.dead_letters.add(PLAN_APPROVED, "it failed 5 times", plan_event(f"dead-{number}").decode())


@pytest.mark.timeout(int(SECONDS or 0) + 300)
def test_every_operation_keeps_to_its_description_whatever_it_is_sent(
    serve: Callable[..., Gunicorn],
    valkey_server: ValkeyServer,
    neo4j_server: Neo4jServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    user, password = neo4j_server.auth
    server = serve(
        valkey_server,
        FLEET_NEO4J_URI=neo4j_server.uri,
        FLEET_NEO4J_USER=user,
        FLEET_NEO4J_PASSWORD=password,
        FLEET_NATS_ENABLED="false",
        FLEET_ENGINE="scripted",
    )
    bury(valkey_server, 20)
    edges = tried(server, "--phases", "coverage")
    assert f"Tested: {sum(map(len, documented_api()['paths'].values()))}\n" in edges
    random = tried(server, "--phases", "fuzzing,stateful", "--max-time", SECONDS or "20")
    events = [json.loads(line)["event"] for line in server.output().splitlines()]
    assert not {"api.internal_error", "crashed"} & set(events)
    assert server.call("GET", "/livez").status == 200
    if SECONDS:
        with capsys.disabled():
            print(f"\n{edges}\n{random}\n{events.count('api.request')} requests")


def tried(server: Gunicorn, *options: str) -> str:
    """What schemathesis reports of a run that found nothing."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run", *options]
    command += [f"http://127.0.0.1:{server.port}/openapi.json", "-H", f"Authorization: Bearer {KEY}"]
    ended = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=int(SECONDS or 0) + 250
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
