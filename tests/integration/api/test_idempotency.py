"""The header Idempotency-Key, which every POST takes."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from fleet.api import create_app, idempotent
from fleet.api.problems import CONFLICT, Refused
from fleet.api.replies import reply
from fleet.api.section import Answer, Operation, Section
from fleet.models import Model
from fleet.settings import Settings
from fleet.store import Store
from fleet.store.idempotency import LEASE_MS

from .conftest import KEY, Gunicorn, documented_api

BODY: dict[str, Any] = {"task_description": "Write a parser", "role": "DEV"}


class Word(Model):
    text: str = ""


class Bench:
    """An operation whose view is the test's own, in any number of replicas."""

    def __init__(self, settings: Settings):
        self.view: Callable[[Word], Response] = lambda body: reply(body, 201, "/v1/words/1")
        self.calls: list[str | None] = []
        self.apps = [self._replica(settings) for _ in range(2)]

    def _replica(self, settings: Settings) -> Flask:
        words = Section("words", "For tests")

        @words.operation(
            "POST", "/words/{shelf}", Operation(summary="Say a word", body=Word, answers={201: Answer("Said", Word)})
        )
        def say(shelf: str, body: Word) -> Response:  # noqa: ARG001
            self.calls.append(idempotent.seed())
            return self.view(body)

        app = create_app(settings)
        app.register_blueprint(words)
        return app

    def post(
        self, text: str = "a", key: str | None = "key-1", replica: int = 0, caller: str = KEY, shelf: str = "top"
    ) -> TestResponse:
        headers = {"Authorization": f"Bearer {caller}"} | ({"Idempotency-Key": key} if key else {})
        return self.apps[replica].test_client().post(f"/v1/words/{shelf}", json={"text": text}, headers=headers)

    def posting(self, **options: Any) -> "Posting":
        return Posting(lambda: self.post(**options))


class Posting(threading.Thread):
    """A request that is on its way."""

    def __init__(self, post: Callable[[], TestResponse]):
        super().__init__()
        self._post = post
        self.start()

    def run(self) -> None:
        self._answer = self._post()

    def answer(self) -> TestResponse:
        self.join(30)
        return self._answer


@pytest.fixture
def bench(settings: Settings) -> Iterator[Bench]:
    bench = Bench(settings)
    yield bench
    for app in bench.apps:
        app.extensions["fleet"].store.close()


def seen(answer: TestResponse) -> tuple[int, bytes, str | None, str | None]:
    return answer.status_code, answer.data, answer.content_type, answer.headers.get("Location")


def test_the_same_request_gets_the_same_answer_from_any_replica_and_is_done_once(bench: Bench) -> None:
    first = bench.post()
    bench.view = lambda _: reply(Word(text="other"), 200)
    assert seen(first) == (201, b'{"text":"a"}', "application/json", "/v1/words/1")
    assert [seen(bench.post(replica=one)) for one in (0, 1)] == [seen(first)] * 2
    assert len(bench.calls) == 1


def test_without_a_key_every_request_is_done(bench: Bench) -> None:
    for _ in range(2):
        bench.post(key=None)
    assert bench.calls == [None, None]


def test_a_key_is_bound_to_the_body_and_the_path(bench: Bench) -> None:
    bench.post()
    for answer in (bench.post(text="b"), bench.post(shelf="middle")):
        assert answer.status_code == 422
        assert answer.json["type"] == "/docs#problem-idempotency-key-reused"
    assert len(bench.calls) == 1


def test_what_the_body_leaves_to_its_default_makes_no_difference(bench: Bench) -> None:
    bench.post(text="")
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": "key-1"}
    assert bench.apps[0].test_client().post("/v1/words/top", json={}, headers=headers).status_code == 201
    assert len(bench.calls) == 1


def test_the_keys_of_different_callers_are_different(bench: Bench) -> None:
    store: Store = bench.apps[0].extensions["fleet"].store
    _, other = store.keys.create("other", ["submit"])
    assert bench.post(text="a").json == {"text": "a"}
    assert bench.post(text="b", caller=other).json == {"text": "b"}
    assert len(set(bench.calls)) == 2


def refuse(_: Word) -> Response:
    raise Refused(CONFLICT, "not now")


def crash(_: Word) -> Response:
    raise ZeroDivisionError


@pytest.mark.parametrize("view", [refuse, crash, lambda _: reply(Word(), 503)])
def test_a_refused_request_frees_its_key_even_for_another_body(bench: Bench, view: Callable[[Word], Response]) -> None:
    usual, bench.view = bench.view, view
    assert bench.post().status_code >= 400
    bench.view = usual
    assert bench.post(text="b").status_code == 201
    assert bench.post(text="b", replica=1).status_code == 201
    assert len(bench.calls) == 2
    assert len(set(bench.calls)) == 1, "what was made before it was refused is found again"


def test_a_request_that_is_refused_before_its_view_does_not_bind_its_key(bench: Bench) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": "key-1"}
    assert bench.apps[0].test_client().post("/v1/words/top", json={"word": 1}, headers=headers).status_code == 422
    assert bench.post().status_code == 201


def test_of_two_at_once_the_second_waits_for_the_answer_of_the_first(bench: Bench) -> None:
    began, go = threading.Event(), threading.Event()

    def hesitate(body: Word) -> Response:
        began.set()
        assert go.wait(30)
        return reply(body, 201)

    bench.view = hesitate
    first = bench.posting()
    assert began.wait(30)
    second = bench.posting(replica=1)
    other = bench.post(text="b", replica=1)
    go.set()
    assert seen(second.answer()) == seen(first.answer())
    assert other.status_code == 422
    assert len(bench.calls) == 1


def test_what_died_is_done_by_the_next_and_what_comes_late_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = threading.Event(), threading.Event()

    def hang(_: Word) -> Response:
        began.set()
        assert go.wait(30)
        raise Refused(CONFLICT, "too late")

    monkeypatch.setattr(type(store_of(bench).idempotency).claim, "__defaults__", (1,))
    usual, bench.view = bench.view, hang
    first = bench.posting()
    assert began.wait(30)
    monkeypatch.setattr(type(store_of(bench).idempotency).claim, "__defaults__", (LEASE_MS,))
    bench.view = usual
    second = bench.post(replica=1)
    go.set()
    assert first.answer().status_code == 409
    assert seen(bench.post()) == seen(second)
    assert second.status_code == 201
    assert bench.post(text="b").status_code == 422
    assert len(bench.calls) == 2
    assert len(set(bench.calls)) == 1, "both make the same"


def store_of(bench: Bench) -> Store:
    store: Store = bench.apps[0].extensions["fleet"].store
    return store


def test_of_a_large_answer_the_body_is_made_again_and_the_rest_is_kept(bench: Bench) -> None:
    text = "x" * 2048
    first = bench.post(text=text)
    bench.view = lambda body: reply(body, 200, "/v1/words/2")
    assert [seen(bench.post(text=text, replica=one)) for one in (0, 1)] == [seen(first)] * 2
    assert bench.post(text="y" * 2048).status_code == 422
    assert len(bench.calls) == 3
    assert len(set(bench.calls)) == 1, "all make the same"
    assert store_of(bench).client.memory_usage("fleet:idempotency:configured:key-1") < 1000


def test_a_large_answer_that_cannot_be_made_again_now_leaves_its_key_bound(bench: Bench) -> None:
    text = "x" * 2048
    first, usual = bench.post(text=text), bench.view
    bench.view = refuse
    assert bench.post(text=text).status_code == 409
    assert bench.post(text="b").status_code == 422
    bench.view = usual
    assert seen(bench.post(text=text)) == seen(first)


def test_a_large_answer_that_names_nothing_made_is_kept_whole(bench: Bench) -> None:
    bench.view = lambda body: reply(body, 201)
    first = bench.post(text="x" * 2048)
    assert seen(bench.post(text="x" * 2048)) == seen(first)
    assert len(bench.calls) == 1


def test_an_answer_that_is_too_large_and_names_nothing_made_is_not_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotent, "MOST_BYTES", 20)
    bench.view = lambda body: reply(body, 201)
    for _ in range(2):
        assert bench.post(text="x" * 21).status_code == 201
    assert bench.post(text="y" * 21).status_code == 422
    assert len(bench.calls) == 2


def test_a_deliberation_with_a_long_text_is_one_with_one_answer_and_one_cancellation(client: FlaskClient) -> None:
    def send(path: str, body: dict[str, Any] | None) -> TestResponse:
        return client.post(path, json=body, headers={"Idempotency-Key": path})

    long = {**BODY, "task_description": "Write a parser. " * 500}
    answers = [send("/v1/deliberations", long) for _ in range(2)]
    assert seen(answers[0])[0] == 202
    assert seen(answers[1]) == seen(answers[0])
    cancelled = [send(f"{answers[0].headers['Location']}/cancel", None) for _ in range(2)]
    assert [answer.status_code for answer in cancelled] == [202, 202]
    assert cancelled[1].json == cancelled[0].json


def test_a_key_is_forgotten_a_day_after_it_was_first_used(bench: Bench) -> None:
    binding = "fleet:idempotency:configured:key-1"
    bench.post()
    store_of(bench).client.expire(binding, 100)
    bench.post()
    assert store_of(bench).client.ttl(binding) <= 100
    store_of(bench).client.delete(binding)
    assert bench.post(text="b").status_code == 201
    assert 0 < store_of(bench).client.ttl(binding) <= 86_400
    assert len(set(bench.calls)) == 2, "what it makes is new, too"


def test_a_secret_is_told_once_and_not_kept(client: FlaskClient, store: Store) -> None:
    body, headers = {"name": "once", "scopes": ["read"]}, {"Idempotency-Key": "key-1"}
    first = client.post("/v1/keys", json=body, headers=headers)
    again = client.post("/v1/keys", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 409)
    assert again.json["type"] == "/docs#problem-answered-once"
    assert len(client.get("/v1/keys").json["items"]) == 1
    assert first.json["key"].rpartition("_")[2] not in str(store.client.hgetall("fleet:idempotency:configured:key-1"))


def test_the_same_deliberation_sent_many_times_at_once_is_one_with_one_answer(served: Gunicorn, store: Store) -> None:
    replies = []
    headers = {"Idempotency-Key": "key-1"}
    threads = [
        threading.Thread(target=lambda: replies.append(served.call("POST", "/v1/deliberations", BODY, **headers)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {reply.status for reply in replies} == {202}
    assert len({reply.body for reply in replies}) == 1
    assert len({reply.headers["Location"] for reply in replies}) == 1
    assert store.statistics.ready(["agents"])["agents"] == 3


def test_every_post_documents_the_header_and_what_its_misuse_is_answered() -> None:
    for path, methods in documented_api()["paths"].items():
        for method, one in methods.items():
            taken = {parameter["name"] for parameter in one.get("parameters", ()) if parameter["in"] == "header"}
            assert ("Idempotency-Key" in taken) is (method == "post"), path
            said = one["responses"].get("422", {}).get("description", "")
            assert ("Idempotency-Key used before" in said) is (method == "post"), path
