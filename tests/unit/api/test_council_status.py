import pytest

from fleet.api.councils import with_agent, with_status, without_agent
from fleet.errors import NotFound, WrongState
from fleet.models import Council, Role

COUNCIL = Council.of(Role.DEV, 2, None, "scripted")
FIRST, SECOND = (agent.agent_id for agent in COUNCIL.agents)


@pytest.mark.parametrize(
    ("busy", "served", "council", "agents"),
    [
        (set(), True, "active", ["ready", "ready"]),
        (set(), False, "idle", ["offline", "offline"]),
        ({SECOND}, True, "busy", ["ready", "busy"]),
        ({FIRST, SECOND}, True, "busy", ["busy", "busy"]),
        ({SECOND}, False, "busy", ["offline", "busy"]),
        ({"agent-qa-001"}, True, "active", ["ready", "ready"]),
    ],
)
def test_a_council_is_as_its_agents_are(busy: set[str], served: bool, council: str, agents: list[str]) -> None:
    found = with_status(COUNCIL, busy, served)
    assert (found.status, [agent.status for agent in found.agents]) == (council, agents)


def test_what_a_council_was_before_does_not_count() -> None:
    assert with_status(with_status(COUNCIL, {FIRST}, True), set(), True) == with_status(COUNCIL, set(), True)


def test_a_new_agent_gets_the_lowest_free_number_or_the_name_it_is_given() -> None:
    gap = without_agent(with_agent(COUNCIL, None), SECOND)
    assert [agent.agent_id for agent in with_agent(gap, None).agents] == [FIRST, "agent-dev-003", SECOND]
    named = with_agent(COUNCIL, "reviewer.7")
    assert (named.num_agents, named.agents[-1].agent_id) == (3, "reviewer.7")


def test_a_council_has_no_agent_twice_no_more_than_ten_and_no_fewer_than_one() -> None:
    full = Council.of(Role.DEV, 10, None, "scripted")
    for council, id in [(COUNCIL, FIRST), (full, None), (full, "another"), (full, FIRST)]:
        with pytest.raises(WrongState):
            with_agent(council, id)
    with pytest.raises(WrongState):
        without_agent(without_agent(COUNCIL, FIRST), SECOND)
    with pytest.raises(NotFound):
        without_agent(COUNCIL, "nobody")
