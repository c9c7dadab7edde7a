"""ValKey and Neo4j over TLS, with certificates of one's own; who shows another one is refused."""

import base64
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from fleet.api.readiness import Probe
from fleet.errors import Unavailable
from fleet.graph import Graph
from fleet.settings import Settings
from tests.harness import Neo4jServer, Process, ValkeyServer, free_port, running, wait_until
from tests.integration.security.conftest import ROOT, Bench
from tests.integration.security.tls import Authority, TlsFront


@pytest.fixture
def front(authority: Authority, stack: ExitStack) -> Callable[[int], int]:
    """The port that takes TLS for another port, from who has a certificate."""

    def make(port: int, *, client_certificates: bool = True) -> int:
        made = TlsFront(authority, port, client_certificates=client_certificates)
        return stack.enter_context(made.running()).port

    return make


@pytest.fixture
def over_tls(valkey_server: ValkeyServer, authority: Authority, front: Callable[[int], int]) -> dict[str, Any]:
    """Settings of a ValKey that takes nothing but TLS, and nobody without a certificate."""
    url = f"rediss://:{valkey_server.password}@127.0.0.1:{front(valkey_server.port)}/0"
    files = {"valkey_ca_file": authority.ca, "valkey_cert_file": authority.cert, "valkey_key_file": authority.key}
    return {"valkey_url": url, **files}


def test_a_deliberation_is_decided_over_tls(new_bench: Callable[..., Bench], over_tls: dict[str, Any]) -> None:
    bench = new_bench(**over_tls)
    bench.worker("agents,council")
    with Graph("bolt://127.0.0.1:1", "neo4j", "") as graph:
        assert Probe(bench.settings, lambda: graph)().dependencies["valkey"].state == "up"
    bench.await_decided(bench.deliberate(bench.dispatcher()))


def test_what_agents_write_is_heard_over_tls(new_bench: Callable[..., Bench], over_tls: dict[str, Any]) -> None:
    store = new_bench(**over_tls).store
    subscription = store.tokens.subscribe("some-id")
    assert store.tokens.publish([("some-id", "a text")]) == 1
    assert subscription.read(10) == ["a text"]
    subscription.close()


def test_flower_reads_the_queues_over_tls(new_bench: Callable[..., Bench], over_tls: dict[str, Any]) -> None:
    bench, port = new_bench(**over_tls), free_port()
    bench.worker("agents,council")
    options = ["--address=127.0.0.1", f"--port={port}", "--basic_auth=a:b"]
    command = [sys.executable, "-m", "celery", "-A", "fleet", "flower", *options]
    with running(Process(command, bench.folder / "flower.log", bench.environment(), ROOT)) as flower:
        login = {"Authorization": f"Basic {base64.b64encode(b'a:b').decode()}"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/queues/length", headers=login)

        def queues() -> Any:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return json.load(answer)["active_queues"]
            except (urllib.error.URLError, ConnectionError):
                return None

        found = wait_until(queues, 60, f"Flower's queues, {flower.log}")
        assert {queue["name"] for queue in found} <= {"agents", "council"}


@pytest.mark.parametrize(
    ("change", "why"),
    [("valkey_ca_file", "certificate verify failed"), ("valkey_url", "certificate verify failed")],
    ids=["another authority", "another name"],
)
def test_a_valkey_that_is_not_the_one_is_refused(
    new_bench: Callable[..., Bench], over_tls: dict[str, Any], stranger: Authority, change: str, why: str
) -> None:
    other = {"valkey_ca_file": stranger.ca, "valkey_url": over_tls["valkey_url"].replace("127.0.0.1", "localhost")}
    bench = new_bench(**{**over_tls, change: other[change]})
    with pytest.raises(redis.ConnectionError, match=why):
        bench.store.client.ping()
    command = [sys.executable, "-m", "celery", "-A", "fleet", "worker", "-Q", "agents", "-P", "threads"]
    with running(Process(command, bench.folder / "worker.log", bench.environment(), ROOT)) as worker:
        lines = wait_until(
            lambda: [line for line in worker.output().splitlines() if "Cannot connect to rediss://" in line], 60
        )
        assert why in lines[0].lower()
        assert "Traceback" not in worker.output()


def test_a_worker_without_a_certificate_is_refused_by_the_server(
    new_bench: Callable[..., Bench], over_tls: dict[str, Any]
) -> None:
    bench = new_bench(valkey_url=over_tls["valkey_url"], valkey_ca_file=over_tls["valkey_ca_file"])
    with pytest.raises(redis.ConnectionError):
        bench.store.client.ping()


def test_the_graph_is_written_over_tls_to_a_neo4j_of_ones_own_authority(
    neo4j_server: Neo4jServer, authority: Authority, stranger: Authority, front: Callable[..., int]
) -> None:
    port = front(neo4j_server.port, client_certificates=False)
    uri, user, password = f"bolt+s://127.0.0.1:{port}", neo4j_server.user, neo4j_server.password
    given = {"neo4j_uri": uri, "neo4j_user": user, "neo4j_password": password}
    with Graph.from_settings(Settings.model_validate({**given, "neo4j_ca_file": authority.ca})) as graph:
        graph.ensure_schema()
        assert graph.decision("none") is None
    for files in ({"neo4j_ca_file": stranger.ca}, {}):
        with Graph.from_settings(Settings.model_validate({**given, **files})) as graph:
            with pytest.raises(Unavailable) as refused:
                graph.ping()
            assert "\n" not in str(refused.value)
            assert "certificate verify failed" in str(refused.value)
