"""The listener as it is run: the real dispatcher and graph, signals, and servers that are away."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.events import PLAN_APPROVED, STORY_TRANSITIONED
from fleet.store import Store
from tests.harness import NatsServer, Process, ValkeyServer, free_port, wait_until
from tests.integration.bus.harness import PLANS, TRANSITIONS, Outside, plan_event, transition_event

RUN = "from fleet.bus import run; from fleet.settings import Settings; raise SystemExit(run(Settings()))"


@pytest.fixture
def process(valkey_server: ValkeyServer, server: NatsServer, tmp_path: Path) -> Iterator[Process]:
    """A listener whose Neo4j is away."""
    env = {
        "FLEET_VALKEY_URL": valkey_server.url,
        "FLEET_NATS_URL": server.url,
        "FLEET_NEO4J_URI": f"bolt://127.0.0.1:{free_port()}",
        "FLEET_AGENTS_PER_COUNCIL": "2",
    }
    process = Process([sys.executable, "-c", RUN], tmp_path / "listener.log", env=env)
    process.start()
    yield process
    process.kill()


@pytest.mark.usefixtures("process")
def test_a_plan_from_nats_is_with_the_broker_when_it_is_acknowledged(outside: Outside, store: Store) -> None:
    wait_until(lambda: outside.consumer(PLANS))
    outside.publish(PLAN_APPROVED, plan_event("p", roles=["DEV", "QA"]))
    wait_until(lambda: outside.settled(PLANS, 1))
    (stored,) = store.pages.plans(100).items
    assert [reference.role for reference in stored.receipt.deliberations] == ["DEV", "QA"]
    assert store.statistics.ready(["agents"])["agents"] == 4
    wait_until(lambda: len(outside.relayed("ORCHESTRATOR_EVENTS")) == 4)
    events = [json.loads(message.data or b"") for message in outside.messages("ORCHESTRATOR_EVENTS")]
    assert {event["agent_id"] for event in events} == {f"agent-{role}-00{n}" for role in ("dev", "qa") for n in (1, 2)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_though_a_transition_still_waits_for_neo4j(
    number: int, process: Process, outside: Outside, store: Store
) -> None:
    wait_until(lambda: outside.consumer(TRANSITIONS))
    outside.publish(STORY_TRANSITIONED, transition_event("s"))
    wait_until(lambda: "server_away" in process.output())
    os.kill(process.pid, number)
    wait_until(lambda: not process.alive, timeout_s=60)
    assert process.stop() == 0, process.output()
    assert process.output().count("server_away") == 1
    assert "Traceback" not in process.output()
    assert store.listeners.list() == []
    assert store.pages.dead_letters(100).items == ()


def test_nats_turned_off_needs_no_listener(tmp_path: Path) -> None:
    process = Process([sys.executable, "-c", RUN], tmp_path / "listener.log", env={"ENABLE_NATS": "false"})
    process.start()
    wait_until(lambda: not process.alive)
    assert process.stop() == 0
