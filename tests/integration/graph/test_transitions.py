"""Transitions of stories arrive more than once and in any order."""

import itertools
from datetime import UTC, datetime, timedelta, timezone

import pytest

from fleet.graph import Graph
from fleet.models import StoryPhase, StoryTransition
from tests.harness import Neo4jServer
from tests.integration.graph.dump import everything
from tests.unit.graph import samples

NOON = datetime(2026, 3, 1, 12, 0, 0, 1, UTC)


def step(story: str, start: StoryPhase, end: StoryPhase, minutes: int = 0) -> StoryTransition:
    return StoryTransition(story_id=story, from_phase=start, to_phase=end, timestamp=NOON + timedelta(minutes=minutes))


def way(story: str) -> list[StoryTransition]:
    """DRAFT → DESIGN → BUILD, and back to DESIGN."""
    return [
        step(story, StoryPhase.DRAFT, StoryPhase.DESIGN, 1),
        step(story, StoryPhase.DESIGN, StoryPhase.BUILD, 2),
        step(story, StoryPhase.BUILD, StoryPhase.DESIGN, 3),
    ]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_a_story_is_where_its_newest_transition_led_in_any_order(graph: Graph, order: tuple[int, ...]) -> None:
    story = samples.unique("story")
    transitions = way(story)
    for index in order:
        assert graph.record_transition(transitions[index])
    assert graph.phase(story) == StoryPhase.DESIGN
    assert graph.transitions(story) == tuple(transitions)


def test_a_transition_delivered_again_changes_nothing(graph: Graph, neo4j_empty: Neo4jServer) -> None:
    story = samples.unique("story")
    transitions = way(story)
    for transition in transitions:
        graph.record_transition(transition)
    before = everything(neo4j_empty)
    for transition in transitions:
        assert not graph.record_transition(transition)
    assert everything(neo4j_empty) == before


def test_the_same_instant_in_another_time_zone_is_the_same_transition(graph: Graph) -> None:
    story = samples.unique("story")
    transition = step(story, StoryPhase.DRAFT, StoryPhase.DESIGN)
    assert graph.record_transition(transition)
    for timestamp in (NOON.astimezone(timezone(timedelta(hours=5, minutes=30))), NOON.replace(tzinfo=None)):
        assert not graph.record_transition(transition.model_copy(update={"timestamp": timestamp}))
    assert graph.transitions(story) == (transition,)


def test_of_transitions_at_one_instant_the_later_phase_counts_in_any_order(graph: Graph) -> None:
    for order in itertools.permutations(
        [
            (StoryPhase.DRAFT, StoryPhase.DESIGN),
            (StoryPhase.DESIGN, StoryPhase.BUILD),
            (StoryPhase.BUILD, StoryPhase.TEST),
        ]
    ):
        story = samples.unique("story")
        for start, end in order:
            graph.record_transition(step(story, start, end))
        assert graph.phase(story) == StoryPhase.TEST


def test_instants_apart_by_a_microsecond_are_told_apart(graph: Graph) -> None:
    story = samples.unique("story")
    later = step(story, StoryPhase.BUILD, StoryPhase.DESIGN)
    earlier = later.model_copy(update={"timestamp": NOON - timedelta(microseconds=1)})
    graph.record_transition(later)
    assert graph.record_transition(earlier)
    assert graph.transitions(story) == (earlier, later)


@pytest.mark.parametrize(
    "timestamp",
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00", "1969-07-20T20:17:40Z", "2026-03-01T12:00:00"],
)
def test_any_timestamp_reads_back_equal(graph: Graph, timestamp: str) -> None:
    transition = StoryTransition(
        story_id=samples.unique("story"),
        from_phase=StoryPhase.DOCS,
        to_phase=StoryPhase.DONE,
        timestamp=datetime.fromisoformat(timestamp),
    )
    graph.record_transition(transition)
    assert graph.transitions(transition.story_id) == (transition,)


def test_a_story_without_transitions_has_no_phase(graph: Graph) -> None:
    plan = samples.plan()
    graph.record_decisions([samples.decision(plan)], {plan.plan.plan_id: plan})
    for story in (plan.plan.story_id, "no-such-story"):
        assert graph.phase(story) is None
        assert graph.transitions(story) == ()
