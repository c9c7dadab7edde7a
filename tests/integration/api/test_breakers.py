"""What the API shows of a server that engines ask and that fails."""

from datetime import datetime

from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from fleet.store import Attempt, Part, Store
from fleet.store.breakers import Limits
from tests.harness import wait_until

HOST, REASON = "10.0.0.7:8000", "10.0.0.7:8000: HTTP 503: no room (4 tries)"
BODY = {"task_description": "Write a parser", "role": "DEV", "num_agents": 1}
AGENT = "agent-dev-001"


def attempt(id: str = "d") -> Attempt:
    return Attempt(Part(id, "propose:0", AGENT), "w/1/a")


def outage(store: Store, id: str, open_ms: int = 60_000) -> None:
    """A deliberation's part waits for the server."""
    store.breakers.failed(HOST, attempt(id), REASON, Limits(1, open_ms))
    assert store.breakers.stand_still(HOST, attempt(id).part, "agents", 0, 1000)


def recovery(store: Store) -> None:
    wait_until(lambda: store.breakers.ask(HOST, attempt("other")).probes, what="it may be tried")
    assert store.breakers.answered(HOST, attempt("other")).changed


def ask(client: FlaskClient) -> str:
    found: str = client.post("/v1/deliberations", json=BODY).json["deliberation_id"]
    return found


def metrics(client: FlaskClient) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("fleet_breaker")]
    assert {sample.labels["endpoint"] for sample in samples} <= {HOST}
    return {sample.name: sample.value for sample in samples}


def test_the_cluster_shows_a_server_that_failed_and_what_waits_for_it(client: FlaskClient, store: Store) -> None:
    assert client.get("/v1/cluster").json["breakers"] == []
    outage(store, ask(client))
    [found] = client.get("/v1/cluster").json["breakers"]
    since, probe = (datetime.fromisoformat(found.pop(name)) for name in ("since", "next_probe"))
    assert found == {"endpoint": HOST, "state": "open", "failures": 1, "waiting": 1, "reason": REASON}
    assert 47 < (probe - since).total_seconds() < 73


def test_a_server_that_is_back_is_shown_as_closed(client: FlaskClient, store: Store) -> None:
    outage(store, ask(client), open_ms=1)
    recovery(store)
    [found] = client.get("/v1/cluster").json["breakers"]
    assert (found["state"], found["failures"], found["waiting"]) == ("closed", 0, 0)
    assert not {"next_probe", "reason"} & set(found)


def test_prometheus_reads_the_state(client: FlaskClient, store: Store) -> None:
    assert metrics(client) == {}
    outage(store, ask(client), open_ms=1)
    assert metrics(client) == {"fleet_breaker_state": 2, "fleet_breaker_failures": 1, "fleet_breaker_waiting": 1}
    wait_until(lambda: store.breakers.ask(HOST, attempt("other")).probes, what="it may be tried")
    assert metrics(client)["fleet_breaker_state"] == 1
    recovery(store)
    assert metrics(client) == {"fleet_breaker_state": 0, "fleet_breaker_failures": 0, "fleet_breaker_waiting": 0}


def test_a_deliberation_says_that_it_waits_for_the_server_until_that_is_back(client: FlaskClient, store: Store) -> None:
    id, other = ask(client), ask(client)
    outage(store, id, open_ms=1)
    listed = {one["deliberation_id"]: one.get("waiting_for") for one in client.get("/v1/deliberations").json["items"]}
    assert listed[id] == client.get(f"/v1/deliberations/{id}").json["waiting_for"] == f"the engine's server, {REASON}"
    assert listed[other] == "a worker for the queue agents: none is running"
    recovery(store)
    assert client.get(f"/v1/deliberations/{id}").json["waiting_for"] == listed[other]
