"""What parts write is heard in order by who listens, and by nobody else ever."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import structlog.testing

from fleet.events import TokensWritten
from fleet.models import Role, Task
from fleet.settings import Settings
from fleet.store import Part, Store
from fleet.store.tokens import Subscription
from fleet.tasks import tokens as module
from fleet.tasks.tokens import MOST_CHARS, MOST_TOKENS, TokenStreams, tokens
from tests.harness import ValkeyServer, wait_until

PART = Part("d-1", "propose:0", "agent-dev-001")
OTHER = Part("d-1", "propose:0", "agent-dev-002")
TASK = Task(
    deliberation_id="d-1", role=Role.DEV, task_id="t", task_description="x", agents=(PART.agent_id, OTHER.agent_id),
    timeout_ms=1, created_at_ms=1, model="small", story_id="story-1",
)  # fmt: skip


class Ear:
    """Hears one deliberation, or all, from now on."""

    def __init__(self, subscription: Subscription):
        self.subscription = subscription
        self.heard: list[TokensWritten] = []

    def until(self, enough: Callable[[list[TokensWritten]], object]) -> list[TokensWritten]:
        wait_until(lambda: self._more() or enough(self.heard), what=f"enough is heard: {self.heard}")
        return self.heard

    def end(self, part: Part = PART) -> list[TokensWritten]:
        """All of the part's messages, once its end was heard."""
        own = lambda: [one for one in self.heard if one.agent_id == part.agent_id]  # noqa: E731
        self.until(lambda _: own() and own()[-1].type == "complete")
        return own()

    def _more(self) -> None:
        for payload in self.subscription.read(0.02):
            event = TokensWritten.model_validate_json(payload)
            assert json.loads(payload) == json.loads(event.payload()), "it is what the event's model says"
            self.heard.append(event)

    close = property(lambda self: self.subscription.close)


@pytest.fixture
def store(valkey_server: ValkeyServer) -> Iterator[Store]:
    with closing(Store.from_settings(Settings(valkey_url=valkey_server.url))) as store:
        yield store


@pytest.fixture
def ear(store: Store) -> Iterator[Ear]:
    with closing(Ear(store.tokens.subscribe("d-1"))) as ear:
        yield ear


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first look, the publisher sends only what is due for another reason than time."""
    monkeypatch.setattr(module, "INTERVAL_S", 3600.0)
    monkeypatch.setattr(module, "UNHEARD_S", 3600.0)


def text_of(messages: list[TokensWritten]) -> str:
    return "".join(message.text for message in messages)


def test_a_run_is_heard_from_its_start_to_its_end_in_order_with_positions(store: Store, ear: Ear) -> None:
    pieces = [f'piece {number},\n\t"\x00\u2028\U0001f600" ' for number in range(500)]
    with TokenStreams().stream(PART, TASK, store) as on_text:
        for piece in pieces:
            on_text(piece, 2)
    heard = ear.end()
    assert text_of(heard) == "".join(pieces)
    assert [one.type for one in heard] == ["start", *["token"] * (len(heard) - 2), "complete"]
    assert [one.number for one in heard] == list(range(len(heard)))
    assert [one.position for one in heard] == [sum(one.tokens for one in heard[:at]) for at in range(len(heard))]
    assert (heard[-1].position, heard[-1].failed) == (1000, False)
    first = heard[0]
    assert (first.deliberation_id, first.agent_id, first.step) == ("d-1", "agent-dev-001", "propose:0")
    assert first.story_id == "story-1"
    assert (first.role, first.model, first.timestamp.tzinfo is not None) == ("DEV", "small", True)
    assert {one.stream for one in heard} == {first.stream}


def test_a_little_text_is_heard_while_the_run_goes_on(store: Store, ear: Ear) -> None:
    assert module.INTERVAL_S <= 0.05
    with TokenStreams().stream(PART, TASK, store) as on_text:
        for text in ("a", "b", "c"):
            on_text(text, 1)
            ear.until(lambda heard, text=text: text_of(heard).endswith(text))  # type: ignore[misc]


@pytest.mark.usefixtures("patient")
def test_32_tokens_do_not_wait_and_31_do(store: Store, ear: Ear) -> None:
    streams = TokenStreams()
    with streams.stream(PART, TASK, store) as on_text, streams.stream(OTHER, TASK, store) as other:
        ear.until(len)  # the first look is over
        for _ in range(MOST_TOKENS - 1):
            on_text("a", 1)
        for _ in range(MOST_TOKENS):
            other("b", 1)
        ear.until(text_of)
        assert text_of(ear.heard) == "b" * 32
        on_text("a", 1)
        ear.until(lambda heard: "a" in text_of(heard))
    assert [one.tokens for one in ear.end(PART) if one.text] == [32]


@pytest.mark.usefixtures("patient")
def test_while_nobody_listens_nothing_is_hurried_and_nothing_is_kept(store: Store) -> None:
    streams = TokenStreams()
    with streams.stream(PART, TASK, store) as on_text:
        wait_until(lambda: not streams._heard, what="it was noticed that nobody listens")
        with closing(Ear(store.tokens.subscribe())) as ear:
            for _ in range(MOST_TOKENS * 3):
                on_text("a", 1)
            assert ear.subscription.read(0.2) == []
    wait_until(lambda: not streams._running and streams._thread is None, what="nothing is left of it")
    assert store.client.keys("*") == []
    with closing(Ear(store.tokens.subscribe())) as late:
        assert late.subscription.read(0.2) == []


@pytest.mark.usefixtures("patient")
def test_what_waits_is_bounded_and_what_was_dropped_shows_in_the_position(store: Store, ear: Ear) -> None:
    streams = TokenStreams()
    with streams.stream(PART, TASK, store) as on_text:
        ear.until(len)
        streams._heard = False
        for number in range(5 * MOST_CHARS // 100):
            on_text(f"{number:099},", 1)
    start, rest, end = ear.end()
    assert 0 < len(rest.text) <= MOST_CHARS
    assert rest.text.endswith(f"{5 * MOST_CHARS // 100 - 1:099},")
    assert rest.position == end.position - rest.tokens == 5 * MOST_CHARS // 100 - len(rest.text) // 100
    assert start.tokens < rest.position


def test_a_valkey_that_is_away_costs_text_and_nothing_else(new_valkey: Callable[..., ValkeyServer]) -> None:
    valkey = new_valkey()
    with (
        closing(Store.from_settings(Settings(valkey_url=valkey.url))) as store,
        structlog.testing.capture_logs() as logs,
    ):
        streams = TokenStreams()
        with streams.stream(PART, TASK, store) as on_text:
            wait_until(lambda: not streams._heard)
            valkey.kill()
            wait_until(lambda: on_text("lost", 1) or streams._away, what="it is noticed")
            valkey.start()
            with closing(Ear(store.tokens.subscribe("d-1"))) as ear:
                wait_until(lambda: on_text("heard", 1) or ear._more() or text_of(ear.heard), what="it goes on")
                first = ear.heard[0]
        assert (first.type, "heard" in first.text, first.position > 0) == ("token", True, True)
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["tokens.dropped"]


def test_a_run_that_fails_says_so_at_its_end(store: Store, ear: Ear) -> None:
    def run() -> None:
        with TokenStreams().stream(PART, TASK, store) as on_text:
            on_text("half", 1)
            raise ValueError("the engine failed")

    with pytest.raises(ValueError, match="the engine failed"):
        run()
    assert [(one.type, one.text, one.failed) for one in ear.end()] == [
        ("start", "", None),
        ("token", "half", None),
        ("complete", "", True),
    ]


def test_two_runs_of_a_part_can_be_told_apart(store: Store, ear: Ear) -> None:
    streams = TokenStreams()
    for _ in "12":
        with streams.stream(PART, TASK, store, model="large"):
            pass
    heard = ear.until(lambda heard: len(heard) == 4)
    assert len({one.stream for one in heard}) == 2
    assert {one.model for one in heard} == {"large"}


def test_text_that_is_no_unicode_does_not_stop_the_others(store: Store, ear: Ear) -> None:
    streams = TokenStreams()
    with streams.stream(PART, TASK, store) as on_text, streams.stream(OTHER, TASK, store) as other:
        on_text("half a character: \ud800", 1)
        other("whole", 1)
    assert text_of(ear.end(PART)) == "half a character: \N{REPLACEMENT CHARACTER}"
    assert text_of(ear.end(OTHER)) == "whole"


def test_a_forked_process_publishes_for_itself(store: Store, ear: Ear) -> None:
    with tokens.stream(PART, TASK, store) as on_text:
        ear.until(len)
        child = os.fork()
        if not child:
            with tokens.stream(OTHER, TASK, store) as other:
                other("from the child", 1)
            wait_until(lambda: tokens._thread is None)
            os._exit(0)
        on_text("from the parent", 1)
        assert text_of(ear.end(OTHER)) == "from the child"
    assert os.waitpid(child, 0)[1] == 0
    assert text_of(ear.end(PART)) == "from the parent"
    assert [one.type for one in ear.end(PART)].count("start") == 1
