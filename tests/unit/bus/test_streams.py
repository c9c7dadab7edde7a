"""Which stream keeps which subject."""

import inspect

import pytest

from fleet import events
from fleet.bus.consumers import consumers
from fleet.bus.streams import STREAMS, compare, stream_of
from fleet.events import Event
from fleet.models import Role


def leaves(cls: type[Event]) -> list[type[Event]]:
    return [leaf for child in cls.__subclasses__() for leaf in leaves(child)] or [cls]


def subjects() -> list[str]:
    """The subject of every kind of event, with all its variants."""
    about = {
        "deliberation_id": "d-1",
        "task_id": "t",
        "agent_id": "a",
        "role": Role.DEV,
        "source": "planning.plan.approved",
    }
    statuses = ("PENDING", "IN_PROGRESS", "COMPLETED", "PARTIAL", "FAILED", "CANCELLED")
    made = [leaf.model_construct(**about, status=status) for leaf in leaves(Event) for status in statuses]
    return sorted({event.subject for event in made})


def test_every_event_of_the_module_is_covered_here() -> None:
    classes = {cls for _, cls in inspect.getmembers(events, inspect.isclass) if issubclass(cls, Event)}
    with_subject = {cls for cls in classes if "SUBJECT" in vars(cls)}
    assert with_subject <= set(leaves(Event))
    assert len(subjects()) > len(with_subject)


@pytest.mark.parametrize("subject", subjects())
def test_every_event_goes_to_exactly_one_stream(subject: str) -> None:
    assert [stream.name for stream in STREAMS if stream.captures(subject)] == [stream_of(subject)]


@pytest.mark.parametrize(
    "subject",
    ["agent.response.completed", "agent.results", "planning", "planning.", "planning.a b", "planning.>", "planning..a"],
)
def test_a_subject_outside_the_streams_or_not_valid_has_none(subject: str) -> None:
    assert stream_of(subject) is None


def test_the_consumers_read_what_their_stream_keeps() -> None:
    for consumer in consumers(print, print):
        assert stream_of(consumer.subject) == consumer.stream


def test_what_the_operator_decides_is_no_difference() -> None:
    wanted = STREAMS[0].config()
    assert compare(wanted, wanted.evolve(num_replicas=3, max_bytes=10**9)).state == "ok"
    check = compare(wanted, wanted.evolve(max_age=60.0))
    assert (check.state, check.detail) == ("differs", "max_age is 60.0 instead of 2592000.0")
