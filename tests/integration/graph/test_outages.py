"""Neo4j away, hanging or refusing: Unavailable, and the same Graph works when it is back."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import neo4j
import pytest

from fleet.errors import Unavailable
from fleet.graph import Graph
from fleet.models import StoryPhase
from tests.harness import Neo4jServer, free_port, wait_until
from tests.integration.graph.test_transitions import step
from tests.unit.graph import samples

CALLS: dict[str, Callable[[Graph], object]] = {
    "ping": Graph.ping,
    "ensure_schema": Graph.ensure_schema,
    "record_decisions": lambda graph: graph.record_decisions([samples.failed()]),
    "record_transition": lambda graph: graph.record_transition(step("s", StoryPhase.DRAFT, StoryPhase.DESIGN)),
    "is_recorded": lambda graph: graph.is_recorded("d"),
    "decision": lambda graph: graph.decision("d"),
    "deliberation": lambda graph: graph.deliberation("d"),
    "plan": lambda graph: graph.plan("p"),
    "transitions": lambda graph: graph.transitions("s"),
    "phase": lambda graph: graph.phase("s"),
}


def impatient(uri: str, user: str = "neo4j", password: str = "") -> Graph:
    return Graph(uri, user, password, connection_timeout_s=1, max_transaction_retry_s=0)


def answers(graph: Graph) -> bool:
    try:
        graph.ping()
    except Unavailable:
        return False
    return True


def stopped(pid: int) -> bool:
    states = [
        (thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in Path(f"/proc/{pid}/task").iterdir()
    ]
    return set(states) == {"T"}


@pytest.fixture
def stranger() -> Iterator[str]:
    """The URI of a server that greets everybody with something that is not Bolt."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(64)
                    connection.sendall(b"220 x")

        threading.Thread(target=greet, daemon=True).start()
        yield f"bolt://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_every_public_method_is_tried() -> None:
    public = {name for name in vars(Graph) if not name.startswith("_")}
    assert public == CALLS.keys() | {"close", "from_settings"}


@pytest.mark.parametrize("name", CALLS)
def test_without_a_server_every_call_is_unavailable(name: str) -> None:
    with impatient(f"bolt://127.0.0.1:{free_port()}") as graph, pytest.raises(Unavailable, match=r"neo4j .*refused"):
        CALLS[name](graph)


def test_a_host_without_an_address_is_unavailable() -> None:
    with impatient("bolt://nowhere.invalid:7687") as graph, pytest.raises(Unavailable, match=r"nowhere\.invalid"):
        graph.is_recorded("d")


def test_a_server_that_is_not_neo4j_is_unavailable(stranger: str) -> None:
    with impatient(stranger) as graph, pytest.raises(Unavailable, match="neo4j"):
        graph.is_recorded("d")


@pytest.mark.parametrize("name", ["ping", "record_decisions", "is_recorded"])
def test_a_wrong_password_is_unavailable_and_says_so(neo4j_server: Neo4jServer, name: str) -> None:
    # Another user than the others' tests: Neo4j bars a user after three failed logins, for which it has another code.
    with impatient(neo4j_server.uri, "intruder", "secret-of-mine") as graph:
        for _ in range(5):
            with pytest.raises(Unavailable, match=r"authentication|unauthorized") as caught:
                CALLS[name](graph)
            assert "secret-of-mine" not in str(caught.value)


def test_the_same_graph_works_after_a_crash_of_the_server(new_neo4j: Callable[[], Neo4jServer]) -> None:
    server = new_neo4j()
    early, late = samples.decision(), samples.decision()
    with Graph(server.uri, server.user, server.password, max_transaction_retry_s=0) as graph:
        graph.ensure_schema()
        graph.record_decisions([early])
        server.kill()
        for call in CALLS.values():
            with pytest.raises(Unavailable):
                call(graph)

        server.start()
        wait_until(lambda: answers(graph), what="Neo4j answers again")

        assert graph.decision(early.deliberation_id) == early
        graph.record_decisions([late])
        assert graph.decision(late.deliberation_id) == late


def test_a_server_that_hangs_is_unavailable_until_it_goes_on(neo4j_server: Neo4jServer) -> None:
    with impatient(neo4j_server.uri, neo4j_server.user, neo4j_server.password) as graph:
        wait_until(lambda: answers(graph), what="Neo4j answers")
        os.kill(neo4j_server.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: stopped(neo4j_server.pid), what="every thread of Neo4j stands still")
            for name in ("is_recorded", "record_decisions", "ping"):
                with pytest.raises(Unavailable):
                    CALLS[name](graph)
        finally:
            os.kill(neo4j_server.pid, signal.SIGCONT)
        wait_until(lambda: answers(graph), what="Neo4j answers again")


def test_a_transaction_that_waits_longer_than_allowed_is_unavailable(neo4j_server: Neo4jServer) -> None:
    plan = samples.plan()
    with (
        Graph(neo4j_server.uri, neo4j_server.user, neo4j_server.password, transaction_timeout_s=0.5) as graph,
        neo4j.GraphDatabase.driver(neo4j_server.uri, auth=neo4j_server.auth) as driver,
        driver.session() as session,
        session.begin_transaction() as holder,
    ):
        holder.run("MERGE (p:Plan {id: $id}) SET p.locked = true", id=plan.plan.plan_id).consume()
        with pytest.raises(Unavailable, match="terminated"):
            graph.record_decisions([samples.decision(plan)], {plan.plan.plan_id: plan})
