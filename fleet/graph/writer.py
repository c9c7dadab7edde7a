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
CLAIM_DECISIONS = f"""
UNWIND $claims.rows AS row
MERGE (d:{Label.DELIBERATION} {{id: row.id}})
WITH collect({{id: d.id, digest: d.digest, plan_id: row.plan_id}}) AS deliberations
CALL (deliberations) {{
    UNWIND deliberations AS one
    WITH one WHERE one.digest IS NULL AND one.plan_id IS NOT NULL
    WITH DISTINCT one.plan_id AS id ORDER BY id
    MERGE (p:{Label.PLAN} {{id: id}}) SET p.updated_at_ms = timestamp()
    RETURN collect([p.id, p.digest]) AS plans
}}
RETURN [one IN deliberations | [one.id, one.digest]] AS deliberations, plans
"""

RELATE_DECISIONS = f"""
UNWIND $nodes.{Label.DELIBERATION} AS row
MATCH {schema.ABOUT.between("d", "s")} WHERE d.id = row.id
MATCH (s)-[r:{schema.SUBTASK_DEPENDS_ON.name}]-(other:{Label.SUBTASK})
MATCH {schema.ABOUT.between("e", "other")}
MATCH {schema.DECIDED.between("d", "mine")} MATCH {schema.DECIDED.between("e", "theirs")}
WITH CASE startNode(r) WHEN s THEN mine ELSE theirs END AS later,
     CASE startNode(r) WHEN s THEN theirs ELSE mine END AS earlier
MERGE (later)-[:{schema.DECISION_DEPENDS_ON.name}]->(earlier)
"""

# One statement, because each costs a round trip. It is planned once: it has all labels and relations, what differs is
# within maps (Neo4j plans anew for another length of a list that is a parameter itself), and a plan for an empty graph
# is as good as any, since all is found by its id.
WRITE_DECISIONS = "\n".join(
    [
        "CYPHER replan=skip",
        *map(schema.merge_nodes, Label),
        *map(schema.merge_relations, schema.RECORDED),
        f"CALL () {{ {RELATE_DECISIONS} }}",
    ]
)

RECORD_TRANSITION = f"""
MERGE (t:{Label.PHASE_TRANSITION} {{id: $id}})
WITH t WHERE t.digest IS NULL
MERGE (s:{Label.STORY} {{id: $story_id}}) SET s.updated_at_ms = timestamp(), t += $properties
MERGE (s)-[:{schema.TRANSITIONED.name}]->(t)
WITH s, t, s.phase IS NULL OR s.at_us < t.at_us OR (s.at_us = t.at_us AND s.phase_order < t.phase_order) AS newest
FOREACH (_ IN CASE WHEN newest THEN [1] ELSE [] END |
    SET s.phase = t.to_phase, s.at_us = t.at_us, s.phase_order = t.phase_order
)
RETURN t.id
"""

# Digest by id; None for what has no content yet.
Digests = Mapping[str, str | None]


def prepare(tx: ManagedTransaction) -> None:
    """Has the statements planned by writing nothing."""
    tx.run(CLAIM_DECISIONS, claims={}).consume()
    _write(tx, [], {}, [])


def record_decisions(
    tx: ManagedTransaction, decisions: Sequence[Decision], plans: Mapping[str, StoredPlan]
) -> tuple[str, ...]:
    """Returns the ids of the deliberations that were not recorded before.

    Raises: Conflict when a deliberation or its plan is recorded with other content.
    """
    by_id = _by_id(decisions)
    digests = {id: record.decision_digest(decision) for id, decision in by_id.items()}
    rows = [{"id": id, "plan_id": by_id[id].task.plan_id} for id in sorted(by_id)]
    claimed = tx.run(CLAIM_DECISIONS, claims={"rows": rows}).single(strict=True)
    fresh = [by_id[id] for id in _missing(Label.DELIBERATION, dict(claimed["deliberations"]), digests)]
    if fresh:
        _write(tx, fresh, plans, _new_plans(dict(claimed["plans"]), plans))
    return tuple(decision.deliberation_id for decision in fresh)


def record_transition(tx: ManagedTransaction, transition: StoryTransition) -> bool:
    """Returns False when the transition was recorded before.

    The story's phase becomes that of its newest transition; of two at the same instant, that of the later phase.
    """
    id = record.transition_key(transition)
    properties = {**record.transition_properties(transition), "digest": id}
    return tx.run(RECORD_TRANSITION, story_id=transition.story_id, id=id, properties=properties).single() is not None


def _by_id(decisions: Sequence[Decision]) -> dict[str, Decision]:
    by_id: dict[str, Decision] = {}
    for decision in decisions:
        if by_id.setdefault(decision.deliberation_id, decision) != decision:
            raise Conflict("deliberation", decision.deliberation_id)
    return by_id


def _new_plans(recorded: Digests, plans: Mapping[str, StoredPlan]) -> list[StoredPlan]:
    """Those of the plans that the graph has not, or has without content."""
    digests = {id: plans[id].plan.digest() for id in recorded.keys() & plans.keys()}
    return [plans[id] for id in _missing(Label.PLAN, recorded, digests)]


def _missing(label: Label, recorded: Digests, digests: Mapping[str, str]) -> list[str]:
    """Those of the ids that have no content yet.

    Raises: Conflict for one that has other content.
    """
    for id, digest in digests.items():
        if recorded[id] not in (None, digest):
            raise Conflict(label.lower(), id)
    return [id for id in sorted(digests) if recorded[id] is None]


def _write(
    tx: ManagedTransaction,
    decisions: Sequence[Decision],
    plans: Mapping[str, StoredPlan],
    new_plans: Iterable[StoredPlan],
) -> None:
    new = Record()
    for plan in new_plans:
        record.add_plan(new, plan)
    for decision in decisions:
        record.add_decision(new, decision, plans.get(decision.task.plan_id or ""))
    relations = {relation.label: rows for relation, rows in new.relations().items()}
    tx.run(WRITE_DECISIONS, nodes=new.nodes(), relations=relations).consume()
