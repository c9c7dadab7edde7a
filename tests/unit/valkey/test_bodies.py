"""Which tasks a body starts with, which of its tasks an outer chord waits for, and the chord's options."""

import pytest
from celery import Celery, chain, chord, group

from fleet.valkey.bodies import entries, outcomes, take_options

app = Celery("bodies", set_as_current=False)


def s(name: str) -> object:
    return app.signature(name)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (s("a"), ["a"]),
        (chain(s("a"), s("b")), ["a"]),
        (group(s("a"), chain(s("b"), s("c"))), ["a", "b"]),
        (chord([s("a")], s("b")), None),
        (group(s("a"), chord([s("b")], s("c"))), None),
        (chain(group(s("a"), s("b")), s("c")), None),
    ],
)
def test_a_body_is_claimed_by_the_tasks_that_it_starts_with(body: object, names: list[str] | None) -> None:
    first = entries(body)
    assert (None if first is None else [task.task for task in first]) == names


def test_an_outer_chord_waits_for_the_last_tasks() -> None:
    tasks = {name: app.signature(name).set(task_id=name) for name in ("b", "d")}
    body = group(chain(s("a"), tasks["b"]), chord([s("c")], tasks["d"]))
    assert [task.id for task in outcomes(body)] == ["b", "d"]
    assert list(outcomes(s("never frozen"))) == []


def test_options_are_taken_off_the_body_wherever_they_were_set() -> None:
    body = chain(app.signature("a").set(chord_deadline=5), s("b"))
    body.set(chord_partial=True)
    options = take_options(body)
    assert (options.deadline, options.partial) == (5.0, True)
    assert "chord_deadline" not in body.tasks[0].options
    assert "chord_partial" not in body.options


def test_without_options_there_is_no_deadline() -> None:
    assert take_options(s("a")).deadline is None
