"""Rebuilds from the graph what was written to it, each within a transaction."""

from typing import Any

from neo4j import ManagedTransaction

from fleet.graph import schema
from fleet.graph.schema import Label, Properties
from fleet.models import Decision, Deliberation, Model, StoredPlan, StoryPhase, StoryTransition

DECISIONS = f"""
MATCH {schema.DECIDED.between("d", "c")} WHERE d.id IN $ids
RETURN d.id AS id, properties(d) AS task, properties(c) AS decision, COLLECT {{
    MATCH {schema.RECEIVED.between("d", "p", "r")} MATCH {schema.WROTE.between("author", "p")}
    RETURN {{result: properties(r), proposal: properties(p), author_id: author.id}} ORDER BY r.place
}} AS results
ORDER BY d.created_at_ms, d.id
"""

PLAN = f"""
MATCH (p:{Label.PLAN} {{id: $id}})
OPTIONAL MATCH {schema.HAS_PLAN.between("s", "p")}
RETURN properties(p) AS plan, s.id AS story_id, COLLECT {{
    MATCH {schema.DELIBERATED.between("p", "d")} RETURN d.id
}} AS deliberation_ids
"""

IS_RECORDED = f"RETURN EXISTS {{ MATCH {schema.DECIDED.between('d', 'c')} WHERE d.id = $id }}"

TRANSITIONS = f"""
MATCH {schema.TRANSITIONED.between("s", "t")} WHERE s.id = $id
RETURN properties(t) ORDER BY t.at_us, t.phase_order, t.id
"""

PHASE = f"MATCH (s:{Label.STORY} {{id: $id}}) RETURN s.phase"


class PlanRecord(Model):
    """A plan as the graph has it: `stored` is None when its decisions were recorded without it."""

    plan_id: str
    story_id: str | None = None
    stored: StoredPlan | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def deliberations(self) -> tuple[Deliberation, ...]:
        return tuple(deliberation_of(decision) for decision in self.decisions)


def decisions(tx: ManagedTransaction, ids: list[str]) -> tuple[Decision, ...]:
    """The decisions of the deliberations `ids` that are recorded, oldest deliberation first."""
    return tuple(_decision(row.data()) for row in tx.run(DECISIONS, ids=ids))


def plan(tx: ManagedTransaction, id: str) -> PlanRecord | None:
    row = tx.run(PLAN, id=id).single()
    if row is None:
        return None
    stored = StoredPlan.model_validate(schema.PLAN.decode(row["plan"])) if "digest" in row["plan"] else None
    recorded = decisions(tx, row["deliberation_ids"])
    return PlanRecord(plan_id=id, story_id=row["story_id"], stored=stored, decisions=recorded)


def is_recorded(tx: ManagedTransaction, id: str) -> bool:
    return bool(tx.run(IS_RECORDED, id=id).single(strict=True).value())


def transitions(tx: ManagedTransaction, story_id: str) -> tuple[StoryTransition, ...]:
    rows = (schema.TRANSITION.decode(row) for row in tx.run(TRANSITIONS, id=story_id).value())
    return tuple(StoryTransition.model_validate({**row, "story_id": story_id}) for row in rows)


def phase(tx: ManagedTransaction, story_id: str) -> StoryPhase | None:
    row = tx.run(PHASE, id=story_id).single()
    return StoryPhase(row.value()) if row and row.value() else None


def deliberation_of(decision: Decision) -> Deliberation:
    """The deliberation as the API shows it; it counts as finished when it was decided."""
    return Deliberation.of(
        decision.task,
        decision.status,
        decision,
        current_count=len(decision.results),
        finished_at_ms=decision.decided_at_ms,
    )


def _decision(row: Properties) -> Decision:
    return Decision.model_validate(
        {
            **schema.DECISION.decode(row["decision"]),
            "deliberation_id": row["id"],
            "task": {**schema.DELIBERATION.decode(row["task"]), "deliberation_id": row["id"]},
            "results": [_result(result) for result in row["results"]],
        }
    )


def _result(row: Properties) -> dict[str, Any]:
    proposal = {**schema.PROPOSAL.decode(row["proposal"]), "author_id": row["author_id"]}
    return {**schema.RESULT.decode(row["result"]), "proposal": proposal}
