"""Writes to the graph, each within a transaction that the caller commits."""

from collections.abc import Iterable, Mapping, Sequence

from neo4j import ManagedTransaction

from fleet.errors import Conflict
from fleet.graph import record, schema
from fleet.graph.record import Record
from fleet.graph.schema import Label
from fleet.models import Decision, StoredPlan, StoryTransition

# A node that is merged stays locked against other writers that merge it until the transaction ends, if it is new; one
# that exists is locked by a property that is set. Nothing may be read of it before that, or it may be out of date.
RELATE_DECISIONS = f"""
UNWIND $ids AS id
MATCH {schema.ABOUT.between("d", "s")} WHERE d.id = id
MATCH (s)-[r:{schema.SUBTASK_DEPENDS_ON.name}]-(other:{Label.SUBTASK})
MATCH {schema.ABOUT.between("e", "other")}
MATCH {schema.DECIDED.between("d", "mine")} MATCH {schema.DECIDED.between("e", "theirs")}
WITH CASE startNode(r) WHEN s THEN mine ELSE theirs END AS later,
     CASE startNode(r) WHEN s THEN theirs ELSE mine END AS earlier
MERGE (later)-[:{schema.DECISION_DEPENDS_ON.name}]->(earlier)
"""

RELATE_TRANSITION = f"""
MATCH (s:{Label.STORY} {{id: $story_id}}) MATCH (t:{Label.PHASE_TRANSITION} {{id: $id}})
SET t += $properties
MERGE (s)-[:{schema.TRANSITIONED.name}]->(t)
WITH s, t
WHERE s.phase IS NULL OR s.at_us < t.at_us OR (s.at_us = t.at_us AND s.phase_order < t.phase_order)
SET s.phase = t.to_phase, s.at_us = t.at_us, s.phase_order = t.phase_order
"""


def record_decisions(
    tx: ManagedTransaction, decisions: Sequence[Decision], plans: Mapping[str, StoredPlan]
) -> tuple[str, ...]:
    """Returns the ids of the deliberations that were not recorded before.

    Raises: Conflict when a deliberation or its plan is recorded with other content.
    """
    by_id = _by_id(decisions)
    digests = {id: record.decision_digest(decision) for id, decision in by_id.items()}
    fresh = [by_id[id] for id in _claim(tx, Label.DELIBERATION, digests)]
    if fresh:
        new = Record()
        for plan in _new_plans(tx, fresh, plans):
            record.add_plan(new, plan)
        for decision in fresh:
            record.add_decision(new, decision, plans.get(decision.task.plan_id or ""))
        _write(tx, new)
        tx.run(RELATE_DECISIONS, ids=[decision.deliberation_id for decision in fresh]).consume()
    return tuple(decision.deliberation_id for decision in fresh)


def record_transition(tx: ManagedTransaction, transition: StoryTransition) -> bool:
    """Returns False when the transition was recorded before.

    The story's phase becomes that of its newest transition; of two at the same instant, that of the later phase.
    """
    id = record.transition_key(transition)
    properties = {**record.transition_properties(transition), "digest": id}
    if not _claim(tx, Label.PHASE_TRANSITION, {id: id}):
        return False
    _lock(tx, Label.STORY, [transition.story_id])
    tx.run(RELATE_TRANSITION, story_id=transition.story_id, id=id, properties=properties).consume()
    return True


def _by_id(decisions: Sequence[Decision]) -> dict[str, Decision]:
    by_id: dict[str, Decision] = {}
    for decision in decisions:
        if by_id.setdefault(decision.deliberation_id, decision) != decision:
            raise Conflict("deliberation", decision.deliberation_id)
    return by_id


def _new_plans(
    tx: ManagedTransaction, decisions: Iterable[Decision], plans: Mapping[str, StoredPlan]
) -> Iterable[StoredPlan]:
    """The plans of the decisions that the graph has not, or has without content."""
    ids = {decision.task.plan_id for decision in decisions if decision.task.plan_id}
    _lock(tx, Label.PLAN, ids)
    digests = {id: plans[id].plan.digest() for id in ids & plans.keys()}
    return [plans[id] for id in _missing(tx, Label.PLAN, digests)]


def _claim(tx: ManagedTransaction, label: Label, digests: Mapping[str, str]) -> list[str]:
    """Those of the ids that nobody has written: they are this transaction's until it ends."""
    tx.run(f"UNWIND $ids AS id MERGE (n:{label} {{id: id}})", ids=sorted(digests)).consume()
    return _missing(tx, label, digests)


def _lock(tx: ManagedTransaction, label: Label, ids: Iterable[str]) -> None:
    if ids := sorted(ids):
        tx.run(f"UNWIND $ids AS id MERGE (n:{label} {{id: id}}) SET n.updated_at_ms = timestamp()", ids=ids).consume()


def _missing(tx: ManagedTransaction, label: Label, digests: Mapping[str, str]) -> list[str]:
    """Those of the ids that have no content yet.

    Raises: Conflict for one that has other content.
    """
    if not digests:
        return []
    found = tx.run(f"MATCH (n:{label}) WHERE n.id IN $ids RETURN n.id, n.digest", ids=sorted(digests))
    recorded = dict(found.values())
    for id, digest in digests.items():
        if recorded[id] not in (None, digest):
            raise Conflict(label.lower(), id)
    return [id for id in sorted(digests) if recorded[id] is None]


def _write(tx: ManagedTransaction, new: Record) -> None:
    for label, nodes in new.nodes():
        tx.run(schema.merge_nodes(label), rows=nodes).consume()
    for relation, relations in new.relations():
        tx.run(schema.merge_relations(relation), rows=relations).consume()
