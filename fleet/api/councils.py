"""/v1/councils."""

from collections.abc import Callable

from flask import Response
from pydantic import Field

from fleet.api.idempotent import derived_id
from fleet.api.replies import no_content, reply
from fleet.api.section import Answer, Operation, Section
from fleet.api.services import services
from fleet.errors import Conflict, NotFound, WrongState
from fleet.models import MAX_AGENTS, Agent, AgentCount, Council, Id, Line, Model, Role, Rounds, agent_id
from fleet.store.keys import Scope

councils = Section("councils", "The agents of each role")

_FROZEN = "A deliberation that runs keeps the agents that it began with."


class CouncilRequest(Model):
    """What is left out is as the fleet is configured."""

    role: Role
    num_agents: AgentCount | None = None
    model: Line | None = None
    deliberation_rounds: Rounds | None = None
    agent_type: Id | None = None


class AgentRequest(Model):
    agent_id: Id | None = Field(None, description="The next free number of the role unless given: `agent-dev-004`")


class CouncilPage(Model):
    items: tuple[Council, ...]
    next_cursor: str | None = Field(None, description="Always absent: there is one page")


@councils.operation(
    "GET",
    "/councils",
    Operation(
        summary="List the councils",
        description="A council is `busy` while an agent of it is worked for, else `active` while workers serve the "
        "agents, else `idle`, its agents `offline`.",
        answers={200: Answer("All councils", CouncilPage)},
    ),
)
def list_councils() -> Response:
    show = _as_they_are()
    return reply(CouncilPage(items=tuple(map(show, services().store.councils.list()))))


@councils.operation(
    "POST",
    "/councils",
    Operation(
        summary="Make the council of a role",
        scope=Scope.ADMIN,
        body=CouncilRequest,
        answers={
            201: Answer("It is made", Council, location=True),
            200: Answer("There was the same council before", Council, location=True),
        },
        problems=(409,),
    ),
)
def create_council(body: CouncilRequest) -> Response:
    asked = _asked(body)

    def make(there: Council | None) -> Council:
        if there not in (None, asked):
            raise Conflict("council", asked.role)
        return asked

    before, _ = services().store.councils.change(asked.role, make, derived_id("council", asked.dump()))
    return _answer(asked, 200 if before else 201)


@councils.operation(
    "GET", "/councils/{role}", Operation(summary="The council of a role", answers={200: Answer("The council", Council)})
)
def get_council(role: str) -> Response:
    return reply(_as_they_are()(_there(services().store.councils.get(_role(role)), role)))


@councils.operation(
    "DELETE",
    "/councils/{role}",
    Operation(
        summary="Delete the council of a role",
        description=f"{_FROZEN} The next deliberation for the role makes a council as configured.",
        answers={204: Answer("It is deleted", media_type=None)},
    ),
)
def delete_council(role: str) -> Response:
    def delete(there: Council | None) -> None:
        _there(there, role)

    services().store.councils.change(_role(role), delete)
    return no_content()


@councils.operation(
    "POST",
    "/councils/{role}/agents",
    Operation(
        summary="Add an agent to a council",
        description=f"{_FROZEN} A council has {MAX_AGENTS} agents at most.",
        scope=Scope.ADMIN,
        body=AgentRequest,
        answers={201: Answer("The council with the agent", Council, location=True)},
        problems=(409,),
    ),
)
def add_agent(role: str, body: AgentRequest) -> Response:
    id = derived_id("agent", role, body.agent_id)
    return _answer(_changed(role, lambda council: with_agent(council, body.agent_id), id), 201)


@councils.operation(
    "DELETE",
    "/councils/{role}/agents/{agent_id}",
    Operation(
        summary="Remove an agent from a council",
        description=f"{_FROZEN} The last agent stays.",
        answers={204: Answer("It is removed", media_type=None)},
        problems=(409,),
    ),
)
def remove_agent(role: str, agent_id: str) -> Response:
    _changed(role, lambda council: without_agent(council, agent_id))
    return no_content()


def with_agent(council: Council, id: str | None) -> Council:
    """The council with one more agent. Raises: WrongState when it has that agent already, or as many as it can."""
    ids = [agent.agent_id for agent in council.agents]
    if id in ids:
        raise WrongState("agent", id, "in the council already")
    if len(ids) >= MAX_AGENTS:
        raise WrongState("council", council.role, f"full with {len(ids)} agents")
    free = (new for number in range(1, MAX_AGENTS + 1) if (new := agent_id(council.role, number)) not in ids)
    return _of(council, (*council.agents, Agent(agent_id=id or next(free), role=council.role)))


def without_agent(council: Council, id: str) -> Council:
    """The council without an agent. Raises: NotFound, or WrongState when it has no other."""
    left = tuple(agent for agent in council.agents if agent.agent_id != id)
    if len(left) == len(council.agents):
        raise NotFound("agent", id)
    if not left:
        raise WrongState("agent", id, "the last of its council")
    return _of(council, left)


def with_status(council: Council, busy_agents: set[str], served: bool) -> Council:
    """The council as it is now: who is worked for, and whether any worker serves the agents."""
    rest = "ready" if served else "offline"
    agents = tuple(
        agent.model_copy(update={"status": "busy" if agent.agent_id in busy_agents else rest})
        for agent in council.agents
    )
    busy = any(agent.status == "busy" for agent in agents)
    return council.model_copy(update={"agents": agents, "status": "busy" if busy else "active" if served else "idle"})


def _of(council: Council, agents: tuple[Agent, ...]) -> Council:
    return council.model_copy(update={"agents": agents, "num_agents": len(agents)})


def _asked(body: CouncilRequest) -> Council:
    settings = services().settings
    council = Council.of(
        body.role,
        body.num_agents or settings.agents_per_council,
        body.model,
        body.agent_type or settings.engine,
    )
    rounds = council.deliberation_rounds if body.deliberation_rounds is None else body.deliberation_rounds
    return council.model_copy(update={"deliberation_rounds": rounds})


def _changed(role: str, to: Callable[[Council], Council], id: str | None = None) -> Council:
    """The council of a role after the change. Raises: NotFound, and what `to` raises."""
    _, after = services().store.councils.change(_role(role), lambda there: to(_there(there, role)), id)
    return _there(after, role)


def _there(council: Council | None, role: str) -> Council:
    if council is None:
        raise NotFound("council", role)
    return council


def _role(text: str) -> Role:
    if text not in list(Role):
        raise NotFound("council", text)
    return Role(text)


def _as_they_are() -> Callable[[Council], Council]:
    """Adds to councils what the workers report now."""
    workers = services().store.workers.list()
    busy = {job.agent_id for worker in workers for job in worker.jobs if job.agent_id}
    served = any(services().settings.agent_queue in worker.queues for worker in workers)
    return lambda council: with_status(council, busy, served)


def _answer(council: Council, status: int) -> Response:
    return reply(_as_they_are()(council), status, location=f"/v1/councils/{council.role}")
