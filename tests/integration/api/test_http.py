import json
import logging
import select
import socket
from typing import Any

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient

from fleet.api import create_app
from fleet.api.services import Services
from fleet.cluster import WorkerState
from fleet.models import Council, Role
from fleet.settings import Settings
from fleet.store import Store
from fleet.store.listeners import ListenerState

BODY: dict[str, Any] = {"task_description": "Write a parser", "role": "DEV"}
PRIVATE = [("GET", "/v1/plans"), ("POST", "/v1/plans"), ("GET", "/v1/events"), ("GET", "/nowhere"), ("PUT", "/livez")]


@pytest.mark.parametrize(("method", "path"), PRIVATE)
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic abc", "Bearer schlüssel"])
def test_without_the_key_nothing_is_answered_but_401(app: Flask, method: str, path: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    answer = app.test_client().open(path, method=method, json=BODY, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="fleet"'


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json", "/docs"])
def test_probes_and_documentation_need_no_key(app: Flask, path: str) -> None:
    assert app.test_client().get(path).status_code == (503 if path == "/readyz" else 200)  # there are no workers


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_with_the_key_requests_are_answered(app: Flask, settings: Settings, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {settings.api_key.get_secret_value()}"}
    assert app.test_client().get("/v1/plans", headers=headers).status_code == 200


def test_without_a_configured_key_only_this_machine_is_answered(settings: Settings) -> None:
    client = create_app(settings.model_copy(update={"api_key": type(settings.api_key)("")})).test_client()
    assert client.get("/v1/plans").status_code == 200
    assert client.get("/v1/plans", environ_base={"REMOTE_ADDR": "::1"}).status_code == 200
    assert client.get("/v1/plans", headers={"Host": "[::1]:8000"}).status_code == 200
    answer = client.get("/v1/plans", environ_base={"REMOTE_ADDR": "10.0.0.7"})
    assert answer.status_code == 403
    assert answer.mimetype == "application/problem+json"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "10.0.0.7"},
        {"Forwarded": "for=10.0.0.7"},
        {"Via": "1.1 proxy"},
        {"Host": "rebound.example"},
        {"Host": "127.0.0.1.rebound.example:8000"},
        {"Host": "[::1"},
    ],
)
def test_without_a_configured_key_what_a_proxy_or_a_foreign_page_sends_is_refused(
    settings: Settings, headers: dict[str, str]
) -> None:
    client = create_app(settings.model_copy(update={"api_key": type(settings.api_key)("")})).test_client()
    assert client.get("/v1/plans", headers=headers).status_code == 403


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/plans/", "/v1//plans", "/v1/plans/a/b", "/v1/plans/%00"])
def test_an_unknown_path_is_not_found(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/plans"), ("DELETE", "/v1/events"), ("PUT", "/v1/councils")])
def test_a_method_that_a_path_has_not_is_answered_with_those_it_has(
    client: FlaskClient, method: str, path: str
) -> None:
    answer = client.open(path, method=method, json=BODY)
    assert answer.status_code == 405
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_a_body_that_is_not_declared_as_json_is_refused(client: FlaskClient, kind: str | None) -> None:
    answer = client.post("/v1/deliberations", data=json.dumps(BODY), content_type=kind)
    assert answer.status_code == 415


def test_json_with_a_charset_is_json(client: FlaskClient) -> None:
    kind = "application/json; charset=utf-8"
    assert client.post("/v1/deliberations", data=json.dumps(BODY), content_type=kind).status_code == 202


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 300_000, b'{"role": NaN}', b'{"role": "\xff"}', rb'{"role": "\ud800"}', b"1" * 100_000,
     b'{"role": "DEV", "role": "QA", "task_description": "x"}', b"\x00", b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_a_body_that_is_no_json_is_refused(client: FlaskClient, store: Store, body: bytes) -> None:
    answer = client.post("/v1/deliberations", data=body, content_type="application/json")
    assert answer.status_code == 422
    assert answer.json["errors"][0]["loc"][0] == "body"
    assert store.client.dbsize() == 0


def test_a_body_of_a_mebibyte_is_read_and_a_larger_one_is_not(client: FlaskClient) -> None:
    padded = json.dumps(BODY).ljust(1024 * 1024)
    assert client.post("/v1/deliberations", data=padded, content_type="application/json").status_code == 202
    answer = client.post("/v1/deliberations", data=padded + " ", content_type="application/json")
    assert answer.status_code == 413


def test_a_request_id_is_echoed_and_in_the_log(client: FlaskClient) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        answer = client.get("/v1/plans", headers={"X-Request-Id": "request-1.a:b_c"})
    assert answer.headers["X-Request-Id"] == "request-1.a:b_c"
    assert [(one["event"], one["request_id"], one["status"]) for one in logs] == [
        ("api.request", "request-1.a:b_c", 200)
    ]


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "<script>", "é", 'a"b'])
def test_an_unfit_request_id_is_replaced(client: FlaskClient, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    made = {client.get("/nowhere", headers=headers).headers["X-Request-Id"] for _ in range(2)}
    assert len(made) == 2
    assert all(id.isalnum() and len(id) == 32 for id in made)


def test_a_fault_of_the_server_tells_the_caller_nothing_and_the_log_everything(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(services.store.pages, "plans", fail)
    with structlog.testing.capture_logs() as logs:
        answer = client.get("/v1/plans")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "RuntimeError" in str([one["exc_info"] for one in logs if one["event"] == "api.internal_error"])


def test_probes_are_logged_for_debugging_only(client: FlaskClient) -> None:
    with structlog.testing.capture_logs() as logs:
        client.get("/livez")
    assert [one["log_level"] for one in logs] == [logging.getLevelName(logging.DEBUG).lower()]


def test_councils_are_listed_and_found_by_role(client: FlaskClient, store: Store) -> None:
    store.councils.ensure(Council.of(Role.QA, 2, None, "scripted"))
    assert [one["council_id"] for one in client.get("/v1/councils").json["items"]] == ["council-qa"]
    assert len(client.get("/v1/councils/QA").json["agents"]) == 2
    for nobody in ("DEV", "qa", "PILOT"):
        assert client.get(f"/v1/councils/{nobody}").status_code == 404


def test_dead_letters_are_listed_with_their_reason_and_found_by_id(client: FlaskClient, store: Store) -> None:
    letters = [store.dead_letters.add("planning.plan.approved", f"reason {n}", f"payload {n}\0") for n in range(3)]
    first = client.get("/v1/deadletters?limit=2").json
    second = client.get("/v1/deadletters", query_string={"cursor": first["next_cursor"]}).json
    assert {one["reason"] for one in first["items"] + second["items"]} == {"reason 0", "reason 1", "reason 2"}
    assert client.get(f"/v1/deadletters/{letters[0].dead_letter_id}").json["payload"] == "payload 0\0"
    assert client.get("/v1/deadletters/nobody").status_code == 404


def listener(nats: str) -> ListenerState:
    return ListenerState(
        listener_id=f"listener {nats}", nats=nats, streams={}, consumers={}, relay="leader", backlog=0, at_ms=1
    )


def worker(*queues: str) -> WorkerState:
    return WorkerState(
        worker=f"w{len(queues)}@here", host="here", pid=1, pool="solo", slots=1, queues=queues, at_ms=1_000_000_000_000
    )


def test_ready_names_every_dependency(client: FlaskClient, store: Store) -> None:
    store.workers.report(worker("agents", "council"))
    assert client.get("/readyz").json == {
        "ready": True,
        "dependencies": {
            "valkey": {"state": "up"},
            "neo4j": {"state": "up"},
            "nats": {"state": "disabled", "reason": "FLEET_NATS_ENABLED is off"},
            "workers": {"state": "up"},
        },
    }


@pytest.mark.parametrize(
    ("workers", "missing"),
    [
        ([], ["agents", "council"]),
        ([("agents",)], ["council"]),
        ([("council", "checks")], ["agents"]),
        ([("agents",), ("council", "checks")], []),
    ],
)
def test_ready_says_which_queue_has_no_worker_and_how_to_start_one(
    client: FlaskClient, store: Store, workers: list[tuple[str, ...]], missing: list[str]
) -> None:
    for queues in workers:
        store.workers.report(worker(*queues))
    answer = client.get("/readyz")
    found = answer.json["dependencies"]["workers"]
    assert (answer.status_code, found["state"]) == ((503, "down") if missing else (200, "up"))
    reasons = [
        f"no worker takes jobs from the queue {queue}: start one with `celery -A fleet worker -Q {queue}`"
        for queue in missing
    ]
    assert found.get("reason", "") == "; ".join(reasons)


@pytest.mark.parametrize(
    ("away", "states", "down"),
    [
        (False, ["connected", "away"], {}),
        (False, ["away"], {"nats": "no listener is connected to it"}),
        (False, [], {"nats": "no listener is running"}),
        (True, ["connected"], {"neo4j": "connection refused"}),
    ],
)
def test_ready_says_what_is_down_and_why(
    settings: Settings, store: Store, graph: Any, away: bool, states: list[str], down: dict[str, str]
) -> None:
    app = create_app(settings.model_copy(update={"nats_enabled": True}))
    app.extensions["fleet"].graph = graph
    graph.away = away
    store.workers.report(worker("agents", "council"))
    for state in states:
        store.listeners.report(listener(state))
    answer = app.test_client().get("/readyz")
    found = answer.json["dependencies"]
    assert {name: one["reason"] for name, one in found.items() if one["state"] == "down"} == down
    assert answer.status_code == (503 if down else 200)
    assert (answer.mimetype == "application/problem+json") is bool(down)


@pytest.mark.parametrize("nats", [True, False])
def test_a_store_that_does_not_answer_is_asked_once_for_all_that_is_in_it(
    settings: Settings, graph: Any, nats: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        url = type(settings.valkey_url)(f"redis://127.0.0.1:{frozen.getsockname()[1]}/0")
        app = create_app(settings.model_copy(update={"nats_enabled": nats, "valkey_url": url}))
        app.extensions["fleet"].graph = graph
        found = app.test_client().get("/readyz").json["dependencies"]
        asked = 0
        while select.select([frozen], [], [], 0)[0]:
            frozen.accept()[0].close()
            asked += 1
    states = {"valkey": "down", "neo4j": "up", "nats": "down" if nats else "disabled", "workers": "down"}
    assert {name: one["state"] for name, one in found.items()} == states
    assert found["workers"]["reason"] == "what the workers say is in valkey, which is down"
    assert asked == 1
