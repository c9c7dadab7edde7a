"""What is not accepted: more than there is room for, more than a key may send, and what ValKey could lose."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery
from flask.testing import FlaskClient

from fleet.api import create_app
from fleet.api.services import Services
from fleet.dispatch import Dispatcher
from fleet.settings import Settings
from fleet.store import Store
from fleet.valkey import install
from tests.harness import ValkeyServer, wait_until
from tests.integration.api.conftest import KEY, CheckedClient, NullGraph, finish_in
from tests.integration.trouble.unsynced import confirm_again, stop_confirming

Api = Callable[..., FlaskClient]
PLAN = {"plan_id": "plan-1", "story_id": "story-1", "roles": ["DEV"]}
WORK = {"role": "DEV", "task_description": "Write it.", "rounds": 0, "num_agents": 1}


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Shared by these tests, which change its configuration."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey(own_valkey: ValkeyServer) -> ValkeyServer:
    with own_valkey.client() as client:
        client.config_set("rdb-key-save-delay", "0")
        client.config_set("appendonly", "no")  # ends a rewrite that a test had made slow
        for name, value in {"appendonly": "yes", "appendfsync": "always", "maxmemory": "0"}.items():
            client.config_set(name, value)
        client.flushall()
        # After appendonly was off, the server writes its file anew.
        wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    return own_valkey


@pytest.fixture
def api(valkey: ValkeyServer) -> Iterator[Api]:
    """The API with other settings: `api(queue_limit=2)`. Its answers are held against /openapi.json."""
    celery = Celery("fleet.admission.tests", set_as_current=False)
    celery.conf.update(broker_url=valkey.url, result_backend=f"fleet.valkey.backend:Backend+{valkey.url}")
    install(celery)

    def make(**settings: Any) -> FlaskClient:
        found = Settings(valkey_url=valkey.url, nats_enabled=False, engine="scripted", api_key=KEY, **settings)
        app = create_app(found)
        app.test_client_class = CheckedClient
        services = services_of(app.test_client())
        services.graph = NullGraph()
        services.dispatcher = Dispatcher(services.store, found, celery)
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
        return client

    yield make
    celery.close()


def services_of(client: FlaskClient) -> Services:
    found: Services = client.application.extensions["fleet"]
    return found


def store_of(client: FlaskClient) -> Store:
    return services_of(client).store


def configure(valkey: ValkeyServer, **settings: str) -> None:
    with valkey.client() as client:
        for name, value in settings.items():
            client.config_set(name, value)


def problem_of(answer: Any) -> tuple[int, str, bool]:
    return answer.status_code, answer.json["type"].partition("#problem-")[2], int(answer.headers["Retry-After"]) > 0


def test_beyond_the_limit_nothing_is_stored_and_what_was_accepted_is_still_known(api: Api) -> None:
    client = api(queue_limit=2)
    assert client.post("/v1/plans", json=PLAN).status_code == 202
    first = client.post("/v1/deliberations", json=WORK)
    assert problem_of(client.post("/v1/plans", json={**PLAN, "plan_id": "plan-2"})) == (429, "queue-full", True)
    assert problem_of(client.post("/v1/deliberations", json=WORK)) == (429, "queue-full", True)
    assert client.get("/v1/plans/plan-2").status_code == 404
    assert client.post("/v1/plans", json=PLAN).status_code == 200
    stats = client.get("/v1/stats").json
    assert (stats["open"], stats["limit"], stats["totals"]["refused_full"], stats["totals"]["accepted"]) == (2, 2, 2, 2)

    id = first.json["deliberation_id"]
    finish_in(store_of(client), id)
    assert client.post(f"/v1/deliberations/{id}/replay").status_code == 202
    assert problem_of(client.post(f"/v1/deliberations/{id}/replay")) == (429, "queue-full", True)
    text = client.get("/metrics").text
    assert "fleet_deliberations_open 2.0" in text
    assert "fleet_deliberations_limit 2.0" in text
    assert 'fleet_refused_total{reason="full"} 3.0' in text


def test_a_request_refused_for_want_of_room_frees_its_idempotency_key(api: Api) -> None:
    client = api(queue_limit=1)
    there = client.post("/v1/deliberations", json=WORK).json["deliberation_id"]
    send = functools.partial(client.post, "/v1/deliberations", json=WORK, headers={"Idempotency-Key": "once"})
    assert send().status_code == 429
    finish_in(store_of(client), there)
    assert send().status_code == 202
    assert send().status_code == 202
    assert client.get("/v1/stats").json["open"] == 1


def test_a_plan_larger_than_the_limit_is_accepted_when_there_is_room(api: Api) -> None:
    client = api(queue_limit=1)
    assert client.post("/v1/plans", json={**PLAN, "roles": ["DEV", "QA", "DEVOPS"]}).status_code == 202
    assert client.get("/v1/stats").json["open"] == 3
    assert client.post("/v1/deliberations", json=WORK).status_code == 429


def test_replicas_that_accept_at_once_agree_on_the_limit(api: Api) -> None:
    replicas = [api(queue_limit=10) for _ in range(2)]

    def send(number: int) -> int:
        return replicas[number % 2].post("/v1/deliberations", json=WORK).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, range(40)))
    assert (statuses.count(202), statuses.count(429)) == (10, 30)


def test_what_is_open_is_counted_right_after_ends_are_forgotten_and_an_id_comes_again(api: Api) -> None:
    client = api(deliberation_retention_s=1)
    store = store_of(client)
    work = {**WORK, "plan_id": "p", "story_id": "s", "task_id": "t"}
    id = client.post("/v1/deliberations", json=work).json["deliberation_id"]
    finish_in(store, id)
    assert store.statistics.read().open == 0
    wait_until(lambda: not store.client.exists(f"fleet:deliberation:{id}"))
    store.client.delete(f"fleet:request:{id}")  # as after a day
    assert client.post("/v1/deliberations", json=work).json["deliberation_id"] == id
    assert store.deliberations.forget_finished() == 0
    assert store.statistics.read().open == 1
    finish_in(store, id)
    wait_until(store.deliberations.forget_finished)
    assert store.statistics.read().open == 0


def test_a_key_sends_so_many_requests_for_work_a_minute_and_reads_without_limit(api: Api) -> None:
    replicas = [api(rate_limit_per_minute=2) for _ in range(2)]
    made = replicas[0].post("/v1/keys", json={"name": "another", "scopes": ["submit"]}).json["key"]
    answers = [replica.post("/v1/deliberations", json=WORK) for replica in replicas]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.headers["RateLimit"].partition(";t=")[0] for answer in answers] == ['"work";r=1', '"work";r=0']
    refused = replicas[0].post("/v1/plans", json=PLAN)
    assert problem_of(refused) == (429, "rate-limited", True)
    assert int(refused.headers["Retry-After"]) <= 30
    assert refused.headers["RateLimit-Policy"] == '"work";q=2;w=60'
    assert replicas[0].get("/v1/plans/plan-1").status_code == 404
    other = {"Authorization": f"Bearer {made}"}
    assert replicas[1].post("/v1/plans", json=PLAN, headers=other).status_code == 202
    id = answers[0].json["deliberation_id"]
    assert replicas[0].post(f"/v1/deliberations/{id}/cancel").status_code == 202
    assert replicas[1].get("/v1/stats").json["totals"]["refused_rate"] == 1


def test_a_key_that_waits_may_send_again_and_never_more_than_its_limit_at_once(api: Api) -> None:
    rates = store_of(api()).rate_limits
    taken = [rates.take("a key", 6) for _ in range(10)]
    assert sum(one.allowed for one in taken) >= 6
    refused = next(one for one in taken if not one.allowed)
    assert refused.left == 0
    assert 0 < refused.retry_s <= 10
    assert refused.reset_s == refused.retry_s + 50
    assert wait_until(lambda: rates.take("a key", 6).allowed)
    assert not rates.take("a key", 6).allowed


CHANGES: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "plan": ("POST", "/v1/plans", PLAN),
    "deliberation": ("POST", "/v1/deliberations", WORK),
    "cancel": ("POST", "/v1/deliberations/{running}/cancel", None),
    "replay": ("POST", "/v1/deliberations/{final}/replay", None),
    "council": ("POST", "/v1/councils", {"role": "QA"}),
    "agent": ("POST", "/v1/councils/DEV/agents", {}),
    "fewer agents": ("DELETE", "/v1/councils/DEV/agents/agent-dev-001", None),
    "no council": ("DELETE", "/v1/councils/DEV", None),
    "key": ("POST", "/v1/keys", {"name": "another", "scopes": ["read"]}),
}


@pytest.fixture
def waits_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.store.durability._TIMEOUT_MS", 100)


@pytest.mark.usefixtures("waits_briefly")
def test_with_fsync_no_change_is_answered_before_it_is_on_disk(api: Api, valkey: ValkeyServer) -> None:
    client = api(durability="fsync")
    ids = [client.post("/v1/deliberations", json=WORK).json["deliberation_id"] for _ in range(2)]
    finish_in(store_of(client), ids[1])
    stop_confirming(valkey)
    for method, path, body in CHANGES.values():
        answer = client.open(path.format(running=ids[0], final=ids[1]), method=method, json=body)
        assert problem_of(answer) == (503, "not-kept", True), path
        assert "did not say within" in answer.json["detail"]
    assert client.get(f"/v1/deliberations/{ids[0]}").status_code == 200
    assert api().post("/v1/plans", json={**PLAN, "plan_id": "plan-2"}).status_code == 202


@pytest.mark.usefixtures("waits_briefly")
def test_what_was_not_confirmed_is_the_same_when_it_is_sent_again(api: Api, valkey: ValkeyServer) -> None:
    client = api(durability="fsync")
    send = functools.partial(client.post, "/v1/deliberations", json=WORK, headers={"Idempotency-Key": "once"})
    stop_confirming(valkey)
    assert client.post("/v1/plans", json=PLAN).status_code == 503
    assert send().status_code == 503
    confirm_again(valkey)
    assert client.post("/v1/plans", json=PLAN).status_code == 200
    id = send().json["deliberation_id"]
    assert send().json["deliberation_id"] == id
    assert client.get("/v1/stats").json["totals"]["accepted"] == 2


@pytest.mark.parametrize(("name", "value"), [("appendonly", "no"), ("appendfsync", "everysec")])
def test_with_fsync_nothing_is_accepted_by_a_valkey_that_could_lose_it_and_the_api_is_not_ready(
    api: Api, valkey: ValkeyServer, name: str, value: str
) -> None:
    client = api(durability="fsync")
    configure(valkey, **{name: value})
    answer = client.post("/v1/plans", json=PLAN)
    assert problem_of(answer) == (503, "not-kept", True)
    assert f"needs appendonly yes and appendfsync always, and ValKey has {name} {value}" in answer.json["detail"]
    assert store_of(client).submissions.plan("plan-1") is None
    found = client.get("/readyz").json["dependencies"]["valkey"]
    assert (found["state"], found["reason"]) == ("down", answer.json["detail"])
    assert api().get("/readyz").json["dependencies"]["valkey"]["state"] == "up"
    assert api().post("/v1/plans", json=PLAN).status_code == 202


def test_with_fsync_what_was_answered_is_there_after_a_kill(
    new_valkey: Callable[..., ValkeyServer], serve: Callable[..., Any]
) -> None:
    server = new_valkey("--appendfsync", "always")
    served = serve(server, FLEET_DURABILITY="fsync")
    assert served.call("POST", "/v1/plans", PLAN).status == 202
    with server.client() as client:
        assert client.info("commandstats")["cmdstat_waitaof"]["calls"] > 0
    server.kill()
    server.start()
    assert wait_until(lambda: served.call("POST", "/v1/plans", PLAN).status == 200)


def test_with_hardly_any_memory_left_nothing_is_accepted_before_writes_are_refused(
    api: Api, valkey: ValkeyServer
) -> None:
    client = api()
    assert client.post("/v1/plans", json=PLAN).status_code == 202
    store = store_of(client)
    store.client.setrange("ballast", 100_000_000, "x")  # so that 5 % are megabytes
    used: Any = store.client.info("memory")["used_memory"]
    configure(valkey, maxmemory=str(int(used / 0.95)))
    answer = client.post("/v1/deliberations", json=WORK)
    assert problem_of(answer) == (503, "not-kept", True)
    assert "90 % of its maxmemory" in answer.json["detail"]
    assert client.post("/v1/plans", json=PLAN).status_code == 200
    assert store.client.set("what runs", "goes on")
    configure(valkey, maxmemory=str(used * 2))
    assert client.post("/v1/deliberations", json=WORK).status_code == 202


def test_what_nobody_can_ask_for_again_is_not_remembered_for_a_day(api: Api) -> None:
    client = api()
    store = store_of(client)
    once = client.post("/v1/deliberations", json=WORK).json["deliberation_id"]
    again = client.post("/v1/deliberations", json=WORK, headers={"Idempotency-Key": "k"}).json["deliberation_id"]
    assert 0 < store.client.ttl(f"fleet:request:{once}") <= 120
    assert store.client.ttl(f"fleet:request:{again}") > 86_000
