from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis.exceptions import ConnectionError

from fleet.api.feed import Feed
from fleet.api.services import Services
from fleet.models import Decision
from fleet.store import LoggedEvent, Store

Event = dict[str, str]


def events(text: str) -> list[Event]:
    """The events of a stream, its comments and its `retry` left out."""
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]
    return [block for block in blocks if "event" in block]


def plan(client: FlaskClient, id: str) -> list[str]:
    accepted = client.post("/v1/plans", json={"plan_id": id, "story_id": "story-1", "roles": ["DEV", "QA"]})
    return [one["deliberation_id"] for one in accepted.json["deliberations"]]


def read(client: FlaskClient, path: str = "/v1/events", **headers: str) -> list[Event]:
    answer = client.get(f"{path}{'&' if '?' in path else '?'}follow=false", headers=headers)
    assert answer.status_code == 200
    assert answer.mimetype == "text/event-stream"
    assert answer.text.startswith("retry: 1000\nid: ")
    return events(answer.text)


def test_without_following_a_stream_has_what_happened_so_far_in_order(client: FlaskClient, store: Store) -> None:
    plan(client, "plan-1")
    found = read(client)
    logged = store.events.read()
    assert [(one["id"], one["event"], one["data"]) for one in found] == [(e.id, e.subject, e.payload) for e in logged]
    assert len(found) == 6


def test_a_stream_of_an_empty_log_is_empty(client: FlaskClient) -> None:
    assert read(client) == []


def test_a_stream_goes_on_after_the_last_event_id(client: FlaskClient) -> None:
    plan(client, "plan-1")
    found = read(client)
    assert read(client, **{"Last-Event-ID": found[3]["id"]}) == found[4:]
    assert read(client, f"/v1/events?after={found[4]['id']}") == found[5:]
    assert read(client, "/v1/events?after=0", **{"Last-Event-ID": found[5]["id"]}) == []
    assert read(client, "/v1/events?after=$") == []


def test_a_deliberations_stream_has_its_own_events_only(client: FlaskClient) -> None:
    first, second = plan(client, "plan-1")
    found = read(client, f"/v1/deliberations/{second}/events")
    assert len(found) == 3
    assert all(second in one["data"] and first not in one["data"] for one in found)


def test_a_deliberations_stream_ends_by_itself_once_it_is_final(
    client: FlaskClient, finish: Callable[[str], Decision]
) -> None:
    first, _ = plan(client, "plan-1")
    finish(first)
    found = events(client.get(f"/v1/deliberations/{first}/events").text)
    assert found[-1]["event"] == "orchestration.deliberation.failed"


def test_who_resumes_after_the_end_is_told_not_to_come_back(
    client: FlaskClient, finish: Callable[[str], Decision]
) -> None:
    first, _ = plan(client, "plan-1")
    finish(first)
    path = f"/v1/deliberations/{first}/events"
    found = events(client.get(path).text)
    assert client.get(path, headers={"Last-Event-ID": found[-1]["id"]}).status_code == 204
    before_last = client.get(path, headers={"Last-Event-ID": found[-2]["id"]})
    assert events(before_last.text) == found[-1:]


def test_a_stream_of_an_unknown_deliberation_is_not_found(client: FlaskClient) -> None:
    assert client.get("/v1/deliberations/nobody/events").status_code == 404


@pytest.mark.parametrize("id", ["x", "1-", "-1", "1-2-3", "9" * 20, "$", "1\t"])
def test_a_malformed_last_event_id_is_refused(client: FlaskClient, id: str) -> None:
    answer = client.get("/v1/events?follow=false", headers={"Last-Event-ID": id})
    assert answer.status_code == 422
    assert answer.json["errors"][0]["loc"] == ["header", "Last-Event-ID"]


@pytest.mark.parametrize("query", ["after=x", "after=", "after=$$", "follow=perhaps", "since=1"])
def test_a_wrong_query_of_a_stream_is_refused(client: FlaskClient, query: str) -> None:
    assert client.get(f"/v1/events?{query}").status_code == 422


def test_a_stream_leaves_its_place_to_others_when_it_ends_or_has_no_body(
    client: FlaskClient, services: Services, finish: Callable[[str], Decision]
) -> None:
    services.long_requests.most = 1
    first, _ = plan(client, "plan-1")
    finish(first)
    path = f"/v1/deliberations/{first}/events"
    last = events(client.get(path).text)[-1]["id"]
    for _ in range(3):
        assert client.head("/v1/events").status_code == 200
        assert client.get(path, headers={"Last-Event-ID": last}).status_code == 204
        assert read(client)


class BrokenLog:
    """A log whose ValKey is away the first time, and then has one event."""

    def __init__(self) -> None:
        self.answers: list[Any] = [ConnectionError("gone"), [LoggedEvent("7-0", "subject", "{}")]]

    def read(self, *_: object) -> list[LoggedEvent]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


def test_an_open_ended_feed_goes_on_when_valkey_is_back() -> None:
    log = BrokenLog()
    feed = Feed(log, "0", stopping=lambda: not log.answers, block_ms=1)  # type: ignore[arg-type]
    assert events("".join(feed.lines())) == [{"id": "7-0", "event": "subject", "data": "{}"}]


def test_a_feed_with_an_end_does_not_look_whole_when_valkey_goes_away() -> None:
    feed = Feed(BrokenLog(), "0", until="7-0")  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        list(feed.lines())


def test_a_feed_without_events_sends_heartbeats(store: Store) -> None:
    beats = iter([False, False, True])
    feed = Feed(store.events, "0", stopping=lambda: next(beats), heartbeat_s=0.001, block_ms=5)
    assert list(feed.lines()) == ["retry: 1000\nid: 0\n\n", ": heartbeat\n\n", ": heartbeat\n\n"]


def test_who_comes_back_after_the_log_was_trimmed_hears_of_the_gap(client: FlaskClient, store: Store) -> None:
    plan(client, "plan-1")
    logged = [event.id for event in store.events.read()]
    store.client.xtrim("fleet:events", minid=logged[3], approximate=False)
    found = read(client, **{"Last-Event-ID": logged[0]})
    assert found[0] == {"event": "fleet.gap", "data": f'{{"after": "{logged[0]}", "oldest": "{logged[3]}"}}'}
    assert [one["id"] for one in found[1:]] == logged[3:]
    assert [one["id"] for one in read(client, **{"Last-Event-ID": logged[3]})] == logged[4:]
    assert [one["id"] for one in read(client)] == logged[3:]


def test_a_deliberations_stream_outlives_the_trimming_of_the_log(client: FlaskClient, store: Store) -> None:
    first, _ = plan(client, "plan-1")
    store.client.xtrim("fleet:events", maxlen=0, approximate=False)
    assert len(read(client, f"/v1/deliberations/{first}/events")) == 3


def test_a_stream_says_where_it_begins_so_that_who_loses_it_before_an_event_misses_none(
    client: FlaskClient, store: Store
) -> None:
    plan(client, "plan-1")
    newest = store.events.newest_id()
    assert client.get("/v1/events?after=$&follow=false").text == f"retry: 1000\nid: {newest}\n\n"


def test_a_feed_with_an_end_comes_to_it_although_the_process_is_to_stop(store: Store, client: FlaskClient) -> None:
    plan(client, "plan-1")
    feed = Feed(store.events, "0", until=store.events.newest_id(), stopping=lambda: True)
    assert len(events("".join(feed.lines()))) == 6


def test_a_reader_that_was_away_while_the_log_was_trimmed_hears_of_the_gap(store: Store, client: FlaskClient) -> None:
    plan(client, "plan-1")
    feed = Feed(store.events, "0", block_ms=1)
    assert len(events(feed._next())) == 6
    for _ in range(300):
        store.client.xadd("fleet:events", {"subject": "s", "payload": "{}"})
    store.client.xtrim("fleet:events", maxlen=250, approximate=False)
    assert events(feed._next())[0]["event"] == "fleet.gap"


def test_a_log_that_was_never_trimmed_has_no_gap(client: FlaskClient) -> None:
    plan(client, "plan-1")
    assert read(client, "/v1/events?after=1") == read(client)


def test_a_feed_whose_deliberation_is_over_and_forgotten_ends(store: Store) -> None:
    feed = Feed(store.events, "7-0", deliberation_id="gone", over=lambda: True, heartbeat_s=0.001, block_ms=5)
    assert list(feed.lines())[-1] == ": heartbeat\n\n"
