"""What a person sees of agents that write."""

import io
from typing import Any

import pytest
from rich.console import Console

from fleet.cli.writing import Desk, Writers

AGENTS = ("agent-dev-001", "agent-dev-002", "agent-dev-003")


def message(type: str = "token", agent: str = AGENTS[0], step: str = "propose:0", **fields: Any) -> dict[str, Any]:
    run = {"type": type, "agent_id": agent, "step": step, "stream": f"{agent} {step}", "text": "", "position": 0}
    return run | fields


def heard(*messages: dict[str, Any]) -> Writers:
    writers = Writers()
    for one in messages:
        writers.take("vllm.streaming.d-1.agent", one)
    return writers


def drawn(writers: Writers, width: int = 120, height: int = 20) -> str:
    console = Console(file=io.StringIO(), width=width, height=40, force_terminal=True, color_system=None)
    console.print(Desk(writers.latest(), height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line(picture: str, part: str) -> str:
    return next(line for line in picture.splitlines() if part in line)


def test_agents_stand_side_by_side_where_there_is_room_and_below_each_other_where_there_is_none() -> None:
    writers = heard(*(message("start", agent) for agent in AGENTS))
    assert all(agent in line(drawn(writers), AGENTS[0]) for agent in AGENTS)
    narrow = drawn(writers, width=80)
    assert AGENTS[1] in line(narrow, AGENTS[0])
    assert AGENTS[2] not in line(narrow, AGENTS[0])
    assert AGENTS[2] in narrow


def test_a_panel_has_the_end_of_the_text_and_the_tokens_so_far() -> None:
    texts = [message(text=f"line {n}\n", position=5 * n, tokens=5) for n in range(100)]
    picture = drawn(heard(message("start"), *texts), height=8)
    assert "500 tokens" in line(picture, AGENTS[0])
    assert "line 99" in picture
    assert "line 0 " not in picture
    assert len(picture.splitlines()) <= 8


def test_who_comes_late_sees_what_is_written_from_then_on_and_the_tokens_before() -> None:
    assert "1010 tokens" in drawn(heard(message(text="late", position=1000, tokens=10)))


def test_a_run_that_is_repeated_begins_anew() -> None:
    again = message(text="again", stream="another", tokens=1)
    picture = drawn(heard(message(text="first", tokens=7), message("start", stream="another"), again))
    assert "first" not in picture
    assert "1 tokens" in picture


def test_the_step_that_was_begun_last_is_shown_and_a_straggler_does_not_bring_the_one_before_back() -> None:
    writers = heard(
        message(text="proposal"),
        message("start", step="review:1"),
        message(agent=AGENTS[1], text="late"),
        message(step="review:1", text="critique"),
    )
    assert list(writers.latest()) == [AGENTS[0]]
    assert "critique" in drawn(writers)


def test_an_end_shows_whether_it_failed() -> None:
    writers = heard(
        message("complete", position=9), message("complete", AGENTS[1], failed=True), message("start", AGENTS[2])
    )
    assert [writer.state for writer in writers.latest().values()] == ["done", "failed", "writing"]
    assert "9 tokens" in drawn(writers)


@pytest.mark.parametrize("height", [0, 3])
def test_without_room_nothing_is_shown(height: int) -> None:
    assert drawn(heard(message(text="text")), height=height).strip() == ""


def test_before_anything_was_heard_nothing_is_shown() -> None:
    writers = Writers()
    writers.take("fleet.gap", {"reason": "too slow"})
    assert drawn(writers).strip() == ""


def test_many_agents_fit_into_the_height_or_are_left_out() -> None:
    writers = heard(*(message("start", f"agent-{number}") for number in range(10)))
    assert len(drawn(writers, width=80, height=20).splitlines()) <= 20


def test_what_a_model_writes_cannot_steer_the_terminal_or_the_markup() -> None:
    picture = drawn(heard(message(text="\x1b[2J\x1b]0;x\x07[bold red]t[/] \u202e", agent="\x1b[2Ja")))
    assert "\x1b" not in picture
    assert "\u202e" not in picture
    assert "[bold red]t[/]" in picture
