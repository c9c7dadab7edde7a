"""Keys with scopes: who may do what, and that a secret is told once and stored never."""

import hashlib
import hmac
import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from fleet.api import create_app, openapi
from fleet.settings import Settings
from fleet.store import Store
from tests.harness import ValkeyServer

from .conftest import KEY, CheckedClient, Gunicorn, Lose, documented_api

BODY: dict[str, Any] = {"task_description": "Write a parser", "role": "DEV"}
As = Callable[[str], FlaskClient]


def made(client: FlaskClient, *scopes: str) -> dict[str, Any]:
    answer = client.post("/v1/keys", json={"name": "a test", "scopes": scopes})
    assert answer.status_code == 201
    found: dict[str, Any] = answer.json
    return found


def calling(app: Flask, key: str) -> FlaskClient:
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    return client


@pytest.fixture
def as_scope(app: Flask, client: FlaskClient) -> As:
    """A client with a new key of that scope."""
    return lambda scope: calling(app, made(client, scope)["key"])


@pytest.fixture
def replica(settings: Settings) -> Iterator[Flask]:
    """A second API on the same ValKey."""
    app = create_app(settings)
    app.test_client_class = CheckedClient
    yield app
    app.extensions["fleet"].store.close()


def test_a_new_key_is_shown_once_and_listed_without_its_text(client: FlaskClient, store: Store) -> None:
    key = made(client, "submit", "read", "read")
    text = key.pop("key")
    assert text.startswith(f"fleet_{key['key_id']}_")
    assert key["scopes"] == ["read", "submit"]
    listed = client.get("/v1/keys")
    assert listed.json == {"items": [key]}
    secret = text.rpartition("_")[2]
    stored = str(store.client.hgetall("fleet:keys"))
    assert secret not in stored
    assert hashlib.sha256(secret.encode()).hexdigest() in stored


def test_keys_are_listed_the_oldest_first(client: FlaskClient) -> None:
    ids = {made(client, "read")["key_id"] for _ in range(3)}
    listed = client.get("/v1/keys").json["items"]
    assert {one["key_id"] for one in listed} == ids
    assert [one["created_at_ms"] for one in listed] == sorted(one["created_at_ms"] for one in listed)


def test_a_key_is_dated_by_the_clock_of_the_store(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        wrong = time.time() + 1200
        patched.setattr(time, "time", lambda: wrong)
        key = made(client, "read")
    assert 0 <= store.workers.now_ms() - key["created_at_ms"] < 600_000


def test_a_key_is_made_and_told_though_the_answer_of_the_store_is_lost(
    app: Flask, client: FlaskClient, lose_answer: Lose
) -> None:
    lose_answer("HSETNX")
    key = made(client, "admin")
    assert len(calling(app, key["key"]).get("/v1/keys").json["items"]) == 1


@pytest.mark.usefixtures("unsettled")
def test_one_idempotency_key_makes_one_key_though_its_answer_was_not_kept(client: FlaskClient, store: Store) -> None:
    def send(name: str) -> TestResponse:
        return client.post("/v1/keys", json={"name": name, "scopes": ["read"]}, headers={"Idempotency-Key": "key-1"})

    first, again = send("one"), send("one")
    assert (first.status_code, again.status_code) == (201, 409)
    assert again.json["type"] == "/docs#problem-answered-once"
    assert [one.key_id for one in store.keys.list()] == [first.json["key_id"]]
    assert store.keys.find(first.json["key"])
    assert send("other").status_code == 201


CALLS = [
    ("GET", "/v1/deliberations", "read", {"read": 200, "submit": 200, "admin": 200}),
    ("POST", "/v1/deliberations", "submit", {"read": 403, "submit": 202, "admin": 202}),
    ("GET", "/v1/keys", "admin", {"read": 403, "submit": 403, "admin": 200}),
    ("DELETE", "/v1/keys/nobody", "admin", {"read": 403, "submit": 403, "admin": 404}),
]


@pytest.mark.parametrize(("method", "path", "needed", "statuses"), CALLS)
@pytest.mark.parametrize("scope", ["read", "submit", "admin"])
def test_a_key_may_do_what_its_scope_covers_and_is_told_what_it_lacks(
    as_scope: As, scope: str, method: str, path: str, needed: str, statuses: dict[str, int]
) -> None:
    answer = as_scope(scope).open(path, method=method, json=BODY if method == "POST" else None)
    assert answer.status_code == statuses[scope]
    if answer.status_code == 403:
        assert answer.json["detail"] == f"needs scope {needed}, this key has {scope}"
        assert f'scope="{needed}"' in answer.headers["WWW-Authenticate"]


def test_a_key_without_the_scope_is_refused_before_its_body_is_read(as_scope: As, store: Store) -> None:
    assert as_scope("read").post("/v1/deliberations", data=b"{").status_code == 403
    assert store.statistics.ready(["agents"])["agents"] == 0


def test_no_key_makes_another_with_more_than_it_has(as_scope: As) -> None:
    for scope in ("read", "submit"):
        body = {"name": "more", "scopes": ["admin"]}
        assert as_scope(scope).post("/v1/keys", json=body).status_code == 403


def test_an_unknown_path_is_not_found_with_any_key(as_scope: As) -> None:
    assert as_scope("read").get("/v1/nowhere").status_code == 404
    assert as_scope("read").put("/v1/keys").status_code == 405


@pytest.mark.parametrize("change", ["secret", "id", "case", "cut", "longer", "prefix"])
def test_a_text_that_is_almost_a_key_is_refused(app: Flask, client: FlaskClient, change: str) -> None:
    text = made(client, "admin")["key"]
    _, id, secret = text.split("_")
    other = {
        "secret": f"fleet_{id}_{'0' * 64}",
        "id": f"fleet_{'0' * 12}_{secret}",
        "case": text.upper(),
        "cut": text[:-1],
        "longer": text + "0",
        "prefix": f"{id}_{secret}",
    }[change]
    assert calling(app, text).get("/v1/keys").status_code == 200
    assert calling(app, other).get("/v1/keys").status_code == 401


def test_keys_are_compared_in_a_time_that_tells_nothing(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = made(client, "admin")["key"]
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def watched(one: Any, other: Any) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    for given in ("x", KEY[:-1], f"{KEY}x", text[:-1] + ("0" if text[-1] != "0" else "1")):
        assert calling(app, given).get("/v1/keys").status_code == 401
    # Each with the configured key, and what has a made one's form with that too: always hashes.
    assert compared == [(32, 32)] * 4 + [(64, 64)]


def test_a_revoked_key_is_refused_by_every_replica_at_once(app: Flask, replica: Flask, client: FlaskClient) -> None:
    key = made(client, "read")
    callers = [calling(one, key["key"]) for one in (app, replica)]
    assert [caller.get("/v1/plans").status_code for caller in callers] == [200, 200]
    answer = client.delete(f"/v1/keys/{key['key_id']}")
    assert (answer.status_code, answer.data) == (204, b"")
    assert [caller.get("/v1/plans").status_code for caller in callers] == [401, 401]
    assert client.get("/v1/keys").json == {"items": []}
    assert client.delete(f"/v1/keys/{key['key_id']}").status_code == 404


def test_the_configured_key_cannot_be_revoked(client: FlaskClient) -> None:
    assert client.delete("/v1/keys/configured").status_code == 404
    assert client.get("/v1/keys").status_code == 200


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": " a"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "a\x1b[31m"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": 7}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": "read"}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": ["read"] * 4}, "scopes"),
        ({"key_id": "mine"}, "key_id"),
    ],
)
def test_a_key_with_a_bad_name_or_scope_is_not_made(
    client: FlaskClient, store: Store, changes: dict[str, Any], field: str
) -> None:
    answer = client.post("/v1/keys", json={"name": "a test", "scopes": ["read"], **changes})
    assert answer.status_code == 422
    assert answer.json["errors"][0]["loc"][:2] == ["body", field]
    assert store.client.dbsize() == 0


def test_the_configured_key_is_known_while_valkey_is_away_and_others_are_asked_to_come_again(
    new_valkey: Callable[..., ValkeyServer], settings: Settings
) -> None:
    valkey = new_valkey()
    app = create_app(settings.model_copy(update={"valkey_url": type(settings.valkey_url)(valkey.url)}))
    app.test_client_class = CheckedClient
    text = made(calling(app, KEY), "admin")["key"]
    valkey.kill()
    assert calling(app, KEY).get("/v1/nowhere").status_code == 404
    assert calling(app, text).get("/v1/nowhere").status_code == 503
    assert calling(app, "no key at all").get("/v1/nowhere").status_code == 401


def test_without_a_configured_key_this_machine_may_do_everything_and_no_other_anything(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"api_key": type(settings.api_key)("")}))
    client = app.test_client()
    text = made(client, "admin")["key"]
    elsewhere = {"environ_base": {"REMOTE_ADDR": "10.0.0.7"}, "headers": {"Authorization": f"Bearer {text}"}}
    assert client.get("/v1/keys", **elsewhere).status_code == 403


@pytest.fixture
def unguarded(settings: Settings) -> Iterator[Flask]:
    """The API without a configured key."""
    app = create_app(settings.model_copy(update={"api_key": type(settings.api_key)("")}))
    app.test_client_class = CheckedClient
    yield app
    app.extensions["fleet"].store.close()


def test_without_a_configured_key_a_key_that_is_presented_still_means_its_scopes(unguarded: Flask) -> None:
    reader = calling(unguarded, made(unguarded.test_client(), "read")["key"])
    assert reader.get("/v1/plans").status_code == 200
    assert reader.get("/v1/keys").status_code == 403
    assert reader.post("/v1/deliberations", json=BODY).status_code == 403


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic abc"])
def test_without_a_configured_key_a_wrong_one_is_refused(unguarded: Flask, given: str) -> None:
    answer = unguarded.test_client().get("/v1/plans", headers={"Authorization": given})
    assert answer.status_code == 401


def test_the_log_says_which_key_a_request_came_with_and_never_its_text(app: Flask, client: FlaskClient) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        key = made(client, "read")
        calling(app, key["key"]).get("/v1/plans")
        app.test_client().get("/v1/plans")
    requests = [one.get("key_id") for one in logs if one["event"] == "api.request"]
    assert requests == ["configured", key["key_id"], None]
    assert key["key"].rpartition("_")[2] not in str(logs)


def test_every_operation_says_which_scope_it_needs() -> None:
    document: openapi.Document = documented_api()
    needed = {
        (method, path): one["security"][0]["key"][0]
        for path, methods in document["paths"].items()
        for method, one in methods.items()
        if one["security"]
    }
    for (method, path), scope in needed.items():
        if path.startswith("/v1/keys") or method == "delete":
            assert scope == "admin"
        elif method == "get":
            assert scope == "read"
    assert needed["post", "/v1/plans"] == needed["post", "/v1/deliberations"] == "submit"


def test_a_stream_ends_soon_after_its_key_is_revoked_and_others_go_on(served: Gunicorn) -> None:
    def key() -> dict[str, Any]:
        answer = served.call("POST", "/v1/keys", {"name": "of a stream", "scopes": ["read"]})
        found: dict[str, Any] = answer.json
        return found

    revoked, other = key(), key()
    id = served.call("POST", "/v1/deliberations", BODY).json["deliberation_id"]
    paths = ("/v1/events?after=$", f"/v1/deliberations/{id}/events?after=$", f"/v1/deliberations/{id}/tokens")
    with ExitStack() as stack:

        def streams(key: str) -> list[http.client.HTTPResponse]:
            opened = [served.request("GET", path, Authorization=f"Bearer {key}") for path in paths]
            return [stack.enter_context(closing(stream)) for stream in opened]

        going, ending = streams(other["key"]), streams(revoked["key"])
        assert served.call("DELETE", f"/v1/keys/{revoked['key_id']}").status == 204
        for stream in ending:
            assert b"event:" not in stream.read()  # which returns when the stream has ended
        for stream in going:
            assert stream.readline().startswith(b"retry:")
        assert not any(stream.isclosed() for stream in going)
        next_id = served.call("POST", "/v1/deliberations", {**BODY, "rounds": 0}).json["deliberation_id"]
        assert any(next_id.encode() in going[0].readline() for _ in range(20))
