"""What is written for plans, decisions and transitions: nodes and relations as plain data, no I/O."""

from datetime import UTC, datetime, timedelta
from typing import Any

from fleet.graph import schema
from fleet.graph.schema import Label, Properties, Relation
from fleet.models import Ballot, Decision, StoredPlan, StoryPhase, StoryTransition, Subtask, Task, derive_id, digest

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PLAN_FIELDS = {"title", "description", "complexity", "roles"}


class Record:
    """Nodes and relations to be merged, each once, in an order that is the same for all writers."""

    def __init__(self) -> None:
        self._nodes: dict[Label, dict[str, Properties]] = {label: {} for label in Label}
        self._relations: dict[Relation, dict[tuple[Any, ...], Properties]] = {one: {} for one in schema.RECORDED}

    def add(self, label: Label, id: str, properties: Properties | None = None) -> str:
        self._nodes[label].setdefault(id, {}).update(properties or {})
        return id

    def relate(self, relation: Relation, start: str, end: str, **properties: Any) -> None:
        key = tuple(properties[name] for name in relation.key)
        self._relations[relation][start, end, *key] = properties

    def nodes(self) -> dict[Label, list[Properties]]:
        """The rows for `schema.merge_nodes`, none where nothing is to be written."""
        return {
            label: [{"id": id, "properties": properties} for id, properties in sorted(nodes.items())]
            for label, nodes in self._nodes.items()
        }

    def relations(self) -> dict[Relation, list[Properties]]:
        """The rows for `schema.merge_relations`, none where nothing is to be written."""
        return {
            relation: [{"start": key[0], "end": key[1], "properties": rows[key]} for key in sorted(rows)]
            for relation, rows in self._relations.items()
        }


def add_plan(record: Record, stored: StoredPlan) -> None:
    plan = stored.plan
    for_queries = plan.model_dump(mode="json", include=PLAN_FIELDS, exclude_none=True)
    id = record.add(Label.PLAN, plan.plan_id, {**schema.PLAN.encode(stored), **for_queries, "digest": plan.digest()})
    record.relate(schema.HAS_PLAN, record.add(Label.STORY, plan.story_id), id)
    approval = plan.model_dump(mode="json", include={"approved_by", "timestamp"}, exclude_none=True)
    record.relate(schema.APPROVED, id, record.add(Label.PLAN_APPROVAL, f"approval:{id}", approval))
    for subtask in plan.subtasks:
        _add_subtask(record, id, subtask)


def _add_subtask(record: Record, plan_id: str, subtask: Subtask) -> None:
    properties = subtask.model_dump(mode="json", exclude={"depends_on"}, exclude_none=True)
    id = record.add(Label.SUBTASK, subtask_key(plan_id, subtask.subtask_id), properties)
    record.relate(schema.HAS_SUBTASK, plan_id, id)
    for other in subtask.depends_on:
        record.relate(schema.SUBTASK_DEPENDS_ON, id, subtask_key(plan_id, other))


def add_decision(record: Record, decision: Decision, plan: StoredPlan | None) -> None:
    """`plan` is the deliberation's; without it the relations to subtasks are unknown and left out."""
    task = decision.task
    properties = {**schema.DELIBERATION.encode(task), "digest": decision_digest(decision)}
    record.add(Label.DELIBERATION, decision.deliberation_id, properties)
    record.add(Label.DECISION, decision.decision_id, schema.DECISION.encode(decision))
    record.relate(schema.DECIDED, decision.deliberation_id, decision.decision_id)
    _add_origin(record, task)
    _add_results(record, decision)
    for ballot in decision.ballots:
        if ballot.valid:
            _add_ballot(record, decision, ballot)
    if plan:
        _relate_subtasks(record, decision, plan.plan.subtasks)


def _add_origin(record: Record, task: Task) -> None:
    if task.story_id:
        record.add(Label.STORY, task.story_id)
    if task.plan_id:
        record.relate(schema.DELIBERATED, record.add(Label.PLAN, task.plan_id), task.deliberation_id)
        if task.story_id:
            record.relate(schema.HAS_PLAN, task.story_id, task.plan_id)
    elif task.story_id:
        record.relate(schema.STORY_DELIBERATED, task.story_id, task.deliberation_id)


def _add_results(record: Record, decision: Decision) -> None:
    for place, result in enumerate(decision.results):
        proposal = result.proposal
        properties = {**_for_queries(proposal.content), **schema.PROPOSAL.encode(proposal)}
        id = record.add(Label.PROPOSAL, proposal_key(decision, proposal.author_id), properties)
        record.relate(schema.RECEIVED, decision.deliberation_id, id, place=place, **schema.RESULT.encode(result))
        author = record.add(Label.AGENT, proposal.author_id, {"role": str(proposal.author_role)})
        record.relate(schema.WROTE, author, id)
        if proposal.author_id == decision.winner_id:
            record.relate(schema.CHOSE, decision.deliberation_id, id)


def _add_ballot(record: Record, decision: Decision, ballot: Ballot) -> None:
    voter = record.add(Label.AGENT, ballot.agent_id, {"role": str(decision.task.role)})
    authors = {result.proposal.author_id for result in decision.results}
    for position, author in enumerate(ballot.ranking, start=1):
        if author in authors:
            proposal, round = proposal_key(decision, author), round_of(ballot.step)
            record.relate(schema.RANKED, voter, proposal, step=ballot.step, round=round, position=position)


def _relate_subtasks(record: Record, decision: Decision, subtasks: tuple[Subtask, ...]) -> None:
    task = decision.task
    about = [subtask for subtask in subtasks if subtask.subtask_id == task.task_id]
    for subtask in about:
        record.relate(schema.ABOUT, decision.deliberation_id, subtask_key(task.plan_id, subtask.subtask_id))
    # A deliberation of a whole role decides for the role's subtasks and for those that are nobody's.
    for subtask in about or [subtask for subtask in subtasks if subtask.role in (None, task.role)]:
        record.relate(schema.AFFECTS, decision.decision_id, subtask_key(task.plan_id, subtask.subtask_id))


def transition_properties(transition: StoryTransition) -> Properties:
    return {**schema.TRANSITION.encode(transition), "at_us": at_us(transition), "phase_order": _order(transition)}


def transition_key(transition: StoryTransition) -> str:
    """The same for the same instant, however its time zone is written."""
    return derive_id(
        "transition", transition.story_id, transition.from_phase, transition.to_phase, str(at_us(transition))
    )


def at_us(transition: StoryTransition) -> int:
    """Unix time in microseconds; a time without a zone is taken as UTC."""
    time = transition.timestamp if transition.timestamp.tzinfo else transition.timestamp.replace(tzinfo=UTC)
    return (time - EPOCH) // timedelta(microseconds=1)


def _order(transition: StoryTransition) -> int:
    return list(StoryPhase).index(transition.to_phase)


def subtask_key(plan_id: str | None, subtask_id: str) -> str:
    """Subtask ids are unique within their plan only; "/" is in no id."""
    return f"{plan_id}/{subtask_id}"


def proposal_key(decision: Decision, author_id: str) -> str:
    return f"{decision.deliberation_id}/{author_id}"


def round_of(step: str) -> int:
    """1 for "review:1", 0 where the step names no round."""
    round = step.partition(":")[2]
    return int(round) if round.isdecimal() else 0


def decision_digest(decision: Decision) -> str:
    """SHA-256 of the record; fields at their defaults do not count, so that a new one changes no digest."""
    return digest(decision.model_dump(mode="json", exclude_defaults=True))


def _for_queries(content: dict[str, Any]) -> Properties:
    """The fields of a proposal that people search by, where they are what they should be: a model wrote them."""
    shown = {name: content.get(name) for name in ("summary", "confidence")}
    return {name: value for name, value in shown.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**63)
