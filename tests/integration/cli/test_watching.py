"""Waiting for what runs: on a terminal, in a pipe, across an API that restarts, and until one has enough of it."""

import contextlib
import json
import os
import re
import signal
import subprocess

import pytest

from fleet.cli.client import UNREACHABLE, Address, Client, Failure
from fleet.cli.stream import Stream
from fleet.events import TokensWritten
from fleet.models import Role
from tests.harness import wait_until
from tests.integration.api.conftest import KEY
from tests.integration.cli.conftest import COMMAND, Served

PLAN = json.dumps({"plan_id": "p-1", "story_id": "s-1", "roles": ["DEV", "QA"]})


def letters(served: Served, *reasons: str) -> None:
    """Logs an event for each reason."""
    for reason in reasons:
        served.store.dead_letters.add("council", reason, reason)


def reasons(lines: list[str]) -> list[str]:
    return [json.loads(line)["payload"]["reason"] for line in lines]


def test_in_a_pipe_each_event_is_a_line_and_the_result_follows(served: Served) -> None:
    id = served.pending()
    watching = served.start("deliberation", "watch", id)
    watching.read_until("agent-dev-003        is asked for a proposal\n")
    served.finish(id)
    code, text, error = watching.finished()
    assert code == 1  # it is FAILED
    assert "record begins\n" in text
    assert "deliberation FAILED\n" in text
    assert "failed: EngineTimeout: no answer" in text
    assert error == ""


def test_on_a_terminal_the_picture_is_live(served: Served) -> None:
    id = served.pending()
    watching = served.start("deliberation", "watch", id, terminal=True)
    watching.read_until(lambda text: len(set(re.findall(r"… (\d+) s", text))) > 1)  # it goes on without an event
    served.finish(id)
    code, text, _ = watching.finished()
    assert code == 1
    assert "propose:0" in text
    assert "FAILED" in text


def written(id: str, text: str, agent: str = "agent-dev-001", number: int = 1) -> tuple[str, str]:
    """What an agent publishes while it writes."""
    message = TokensWritten(
        type="token", deliberation_id=id, agent_id=agent, step="propose:0", role=Role.DEV,
        stream=agent, number=number, text=text, tokens=3, position=3 * number,
    )  # fmt: skip
    return id, message.payload()


def test_on_a_terminal_the_agents_are_seen_writing_side_by_side(served: Served) -> None:
    id = served.pending()
    watching = served.start("deliberation", "watch", id, terminal=True)
    both = [written(id, "first \x1b[2Jtext [bold]"), written(id, "other text", "agent-dev-002", 5)]
    wait_until(lambda: served.store.tokens.publish(both) == 2, what="it listens")
    text = watching.read_until(lambda text: "first" in text and "other text" in text)
    assert any("first" in line and "other text" in line for line in text.splitlines())
    assert "\x1b[2J" not in text
    assert "text [bold]" in text
    assert "18 tokens" in text
    served.finish(id)
    code, text, _ = watching.finished()
    assert code == 1
    assert "FAILED" in text


def test_a_watch_goes_on_without_what_is_written_when_that_cannot_be_had(own: Served) -> None:
    """All places for streams but one are taken: the events have it, and what is written finds none.

    On an API of its own, for the streams of other tests may still be in theirs for a moment.
    """
    id = own.pending()
    with contextlib.ExitStack() as taken:
        for _ in range(11):
            taken.enter_context(contextlib.closing(own.api.request("GET", "/v1/events")))
        watching = own.start("deliberation", "watch", id, terminal=True)
        watching.read_until(lambda text: re.search(r"… [1-9]\d* s", text) is not None)
        assert own.store.tokens.publish([written(id, "unheard")]) == 0
        own.finish(id)
        code, text, error = watching.finished()
    assert code == 1
    assert "FAILED" in text
    assert error == ""


def test_in_a_pipe_nothing_is_shown_of_what_is_written(served: Served) -> None:
    id = served.pending()
    watching = served.start("deliberation", "watch", id)
    watching.read_until("agent-dev-003        is asked for a proposal\n")
    assert served.store.tokens.publish([written(id, "unheard")]) == 0
    served.finish(id)
    assert "unheard" not in watching.finished()[1]


def test_a_plan_is_waited_for_as_a_whole(served: Served) -> None:
    file = "-"
    waiting = subprocess.Popen(
        [*COMMAND, "plan", "submit", file, "--wait", "--json"],
        env={**os.environ, **served.env},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiting.stdin
    assert waiting.stderr
    waiting.stdin.write(PLAN)
    waiting.stdin.close()
    asked = [waiting.stderr.readline() for _ in range(6)]
    assert sum("· p-1.qa" in line for line in asked) == 3
    for one in served.json("plan", "show", "p-1")["deliberations"]:
        served.finish(one["deliberation_id"])
    document = json.loads(waiting.stdout.read() if waiting.stdout else "")
    assert [one["status"] for one in document["deliberations"]] == ["FAILED", "FAILED"]
    assert waiting.wait(60) == 1


def test_what_is_final_is_shown_at_once(served: Served) -> None:
    id = served.pending()
    served.finish(id)
    done = served.cli("deliberation", "watch", id)
    assert done.exit_code == 1
    assert "FAILED" in done.stdout


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_leaves_the_deliberation_to_go_on_and_says_how_to_come_back(served: Served, terminal: bool) -> None:
    id = served.pending()
    watching = served.start("deliberation", "watch", id, terminal=terminal)
    watching.read_until("agent-dev-001")
    watching.popen.send_signal(signal.SIGINT)
    code, _, error = watching.finished()
    assert code == 130
    assert f"`fleet deliberation watch {id}`" in error
    assert f"`fleet deliberation cancel {id}`" in error
    assert "Traceback" not in error
    assert served.json("deliberation", "show", id)["status"] == "PENDING"


def test_ctrl_c_ends_following_the_events_quietly(served: Served) -> None:
    letters(served, "one")
    following = served.start("events", "--follow", "--after", "0")
    following.read_until("one")
    following.popen.send_signal(signal.SIGINT)
    code, _, error = following.finished()
    assert (code, error) == (130, "")


def test_following_begins_with_what_happens_from_now_on(served: Served) -> None:
    letters(served, "before")
    following = served.start("events", "--follow")
    moments = iter(range(1000))
    while not following.has_output(0.1):  # it does not say when it has begun
        letters(served, f"after {next(moments)}")
    assert "before" not in following.read_until("after")
    following.popen.terminate()
    following.finished()


def test_no_event_is_missing_or_repeated_when_the_api_restarts(own: Served) -> None:
    letters(own, "1", "2")
    following = own.start("events", "--follow", "--after", "0", "--json")
    assert reasons(following.read_lines(2)) == ["1", "2"]
    own.api.stop()
    letters(own, "3")
    own.api.start()
    letters(own, "4")
    assert reasons(following.read_lines(4)) == ["1", "2", "3", "4"]
    own.api.popen.kill()  # without a farewell
    own.api.stop()
    letters(own, "5")
    own.api.start()
    assert reasons(following.read_lines(5)) == ["1", "2", "3", "4", "5"]
    following.popen.terminate()
    _, _, error = following.finished()
    assert "is lost, trying again for 60 s" in error


def test_a_watch_goes_on_when_the_api_restarts(own: Served) -> None:
    id = own.pending()
    watching = own.start("deliberation", "watch", id)
    watching.read_until("agent-dev-003        is asked for a proposal\n")
    own.api.stop()
    own.finish(id)
    own.api.start()
    code, text, _ = watching.finished()
    assert code == 1
    assert text.count("is asked for a proposal") == 3
    assert text.count("deliberation FAILED") == 1


def test_a_fleet_that_comes_back_elsewhere_is_found_through_its_fleet_json(own: Served) -> None:
    letters(own, "1")
    folder = own.announce()
    following = own.start("events", "--follow", "--after", "0", "--json", FLEET_URL="", FLEET_DIR=str(folder))
    following.read_lines(1)
    own.api.stop()
    own.move()
    own.api.start()
    own.announce()
    letters(own, "2")
    assert reasons(following.read_lines(2)) == ["1", "2"]
    following.popen.terminate()
    following.finished()


def test_a_fleet_that_stays_away_is_given_up_with_the_next_step(own: Served) -> None:
    letters(own, "1")
    client = Client(Address(f"http://127.0.0.1:{own.api.port}", KEY))
    notes: list[str] = []
    stream = iter(Stream(client, "/v1/events", patience_s=1.5, note=notes.append))
    assert next(stream) is not None
    own.api.stop()
    with pytest.raises(Failure) as caught:
        list(stream)
    assert caught.value.exit_code == UNREACHABLE
    assert "fleet doctor" in caught.value.message
    assert len(notes) == 1


def test_a_reader_that_leaves_early_is_no_trouble(served: Served) -> None:
    letters(served, *map(str, range(2000)))
    for words in (["events"], ["events", "--json"], ["deadletter", "list", "--limit", "2000"]):
        listing = served.start(*words)
        assert listing.read_lines(1)
        listing.close()
        assert listing.popen.stderr
        assert listing.popen.stderr.read() == b""
        listing.popen.wait(60)
