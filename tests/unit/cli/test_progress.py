"""What a person sees of the events of a deliberation."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from fleet.cli.board import Board
from fleet.cli.progress import Track, concerns, event_line
from fleet.cli.stream import Event
from fleet.events import (
    AgentResult,
    DecisionAdded,
    DeliberationFinished,
    DeliberationStarted,
    DeliberationStepped,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
)
from fleet.events import Event as Payload

BEGAN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
AGENTS = ("agent-dev-001", "agent-dev-002", "agent-dev-003")
ABOUT: dict[str, Any] = {"deliberation_id": "d-1", "task_id": "t-1", "role": "DEV", "timestamp": BEGAN}
VIEW = {"deliberation_id": "d-1", "task_id": "t-1", "role": "DEV", "agents": AGENTS, "status": "PENDING"}


def logged(*payloads: Payload) -> list[Event]:
    """The events as they come from the stream."""
    return [Event(f"{n}-0", one.subject, json.loads(one.payload())) for n, one in enumerate(payloads, 1)]


def answered(step: str, agent: str) -> TaskCompleted:
    return TaskCompleted(**ABOUT, agent_id=agent, step=step, duration_ms=2500)


def stepped(step: str) -> DeliberationStepped:
    return DeliberationStepped(**ABOUT, status="IN_PROGRESS", step=step)


PROPOSED = logged(
    *(TaskDispatched(**ABOUT, agent_id=agent) for agent in AGENTS),
    DeliberationStarted(**ABOUT, status="IN_PROGRESS"),
    answered("propose:0", AGENTS[0]),
    answered("propose:0", AGENTS[1]),
    TaskFailed(**ABOUT, agent_id=AGENTS[2], step="propose:0", error="no answer within 60 s", error_type="timeout"),
)
REVIEWED = logged(stepped("review:1"), answered("review:1", AGENTS[0]), stepped("record"))
FINISHED = logged(DeliberationFinished(**ABOUT, status="PARTIAL", winner_agent_id=AGENTS[0]))
RESULT = {
    **VIEW,
    "status": "PARTIAL",
    "winner_id": AGENTS[0],
    "results": [
        {"proposal": {"author_id": AGENTS[0]}, "checks": {}, "check_score": 1.0, "score": 0.9, "rank": 1},
        {
            "proposal": {"author_id": AGENTS[1]},
            "checks": {"lint": {"passed": False}},
            "check_score": 0.5,
            "score": 0.4,
            "rank": 2,
        },
    ],
}


def track(events: list[Event], found: dict[str, Any] = VIEW) -> Track:
    made = Track.of(found)
    for event in events:
        made = made.after(event)
    return made


def drawn(*tracks: Track, after_s: float = 0, height: int = 40, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(Board(tracks, (BEGAN + timedelta(seconds=after_s)).timestamp()))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(picture: str, agent: str) -> str:
    return next(line for line in picture.splitlines() if agent in line)


def test_an_agent_that_is_asked_shows_for_how_long() -> None:
    assert "… 7 s" in row(drawn(track(PROPOSED[:3]), after_s=7), AGENTS[1])


def test_an_answer_shows_how_long_it_took_and_a_failure_why() -> None:
    picture = drawn(track(PROPOSED))
    assert "✓ 2.5 s" in row(picture, AGENTS[0])
    assert "✗ no answer within 60 s" in row(picture, AGENTS[2])


def test_a_step_asks_those_who_proposed() -> None:
    seen = track([*PROPOSED, REVIEWED[0]])
    assert [seen.cells.get(("review:1", agent)) is not None for agent in AGENTS] == [True, True, False]
    assert "propose:0" in drawn(seen)
    assert "review:1" in drawn(seen)


def test_who_has_not_answered_when_the_next_step_begins_gave_no_answer() -> None:
    assert "· no answer" in row(drawn(track([*PROPOSED, *REVIEWED])), AGENTS[1])


def test_a_frozen_decision_is_said_to_be_on_its_way_to_the_graph() -> None:
    assert "being written to the graph" in drawn(track([*PROPOSED, *REVIEWED]))
    assert "being written" not in drawn(track([*PROPOSED, *REVIEWED, *FINISHED]))


def test_the_ranking_and_the_checks_stand_beside_the_agents_once_there_is_a_result() -> None:
    picture = drawn(track([*PROPOSED, *REVIEWED, *FINISHED]).finished(RESULT))
    assert "1 ★" in row(picture, AGENTS[0])
    assert "0.50 ✗ lint" in row(picture, AGENTS[1])
    assert "PARTIAL" in picture


def test_a_finished_deliberation_stays_finished_whatever_comes_later() -> None:
    done = track(FINISHED)
    assert done.after(PROPOSED[3]).status == "PARTIAL"


def test_unknown_events_change_nothing() -> None:
    assert track([Event("9-0", "orchestration.unheard.of", {"deliberation_id": "d-1"})]) == track([])


def test_the_pictures_do_not_share_state() -> None:
    before = track(PROPOSED[:3])
    before.after(PROPOSED[4])
    assert before.cells[("propose:0", AGENTS[0])].state == "asked"


def test_deliberations_stand_side_by_side_where_there_is_room() -> None:
    two = track(PROPOSED), track(PROPOSED, {**VIEW, "deliberation_id": "d-2"})
    assert any(line.count(AGENTS[0]) == 2 for line in drawn(*two, width=160).splitlines())
    assert not any(line.count(AGENTS[0]) == 2 for line in drawn(*two, width=60).splitlines())


def test_more_deliberations_than_fit_take_a_line_each_and_those_that_run_come_first() -> None:
    runs = [track(PROPOSED, {**VIEW, "deliberation_id": f"d-{n}", "task_id": f"t-{n}"}) for n in range(30)]
    done = track(FINISHED, {**VIEW, "task_id": "done"})
    picture = drawn(done, *runs, height=12)
    assert len(picture.splitlines()) <= 12
    assert "propose:0  3 of 3" in row(picture, "t-0")
    assert "done" not in picture
    assert "and 22 more" in picture


def test_text_from_outside_cannot_steer_the_terminal_or_the_markup() -> None:
    failed = TaskFailed(**ABOUT, agent_id=AGENTS[0], step="propose:0", error="\x1b]0;x\x07[red]", error_type="engine")
    [event] = logged(failed)
    assert "\x1b" not in event_line(event.subject, event.payload)
    picture = drawn(track([event], {**VIEW, "task_id": "\x1b[2J[bold]t"}))
    assert "\x1b]0" not in picture
    assert "\x1b[2J" not in picture
    assert "[bold]t" in picture


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (answered("review:1", AGENTS[0]), "12:00:00 agent-dev-001        review:1 answered in 2.5 s"),
        (stepped("vote:1"), "12:00:00 DEV                  vote:1 begins"),
        (DeliberationFinished(**ABOUT, status="COMPLETED"), "12:00:00 DEV                  deliberation COMPLETED"),
        (AgentResult(**ABOUT, agent_id=AGENTS[0], status="failed"), "12:00:00 agent-dev-001        result failed"),
    ],
)
def test_an_event_is_one_line(payload: Payload, line: str) -> None:
    [event] = logged(payload)
    assert event_line(event.subject, event.payload) == line


def test_an_event_names_its_deliberation() -> None:
    added, stepping = logged(DecisionAdded(decision_id="decision:d-1"), stepped("vote:1"))
    assert [concerns(added), concerns(stepping)] == ["d-1", "d-1"]
    assert concerns(Event("1-0", "deadletter.x", {"dead_letter_id": "y"})) is None
