"""The graph's labels, relations and properties: writer and reader know them from here only.

    (Story)-[HAS_PLAN]->(Plan)-[HAS_SUBTASK]->(Subtask)-[DEPENDS_ON]->(Subtask)       (Plan)-[APPROVED]->(PlanApproval)
    (Story)-[TRANSITIONED]->(PhaseTransition)
    (Plan)-[DELIBERATED]->(Deliberation)-[ABOUT]->(Subtask)       (Story)-[DELIBERATED]->(Deliberation) without a plan
    (Deliberation)-[RECEIVED {rank, score}]->(Proposal)<-[WROTE]-(Agent)-[RANKED {step, round, position}]->(Proposal)
    (Deliberation)-[CHOSE]->(Proposal)
    (Deliberation)-[DECIDED]->(Decision)-[AFFECTS]->(Subtask)     (Decision)-[DEPENDS_ON]->(Decision)

Every node has an `id`, unique within its label. Properties bear the names of the model's fields; what Neo4j cannot hold
(objects, lists of objects) is JSON text.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from fleet.models import Decision, Proposal, RankedProposal, StoredPlan, StoryTransition, Task

Properties = dict[str, Any]


class Label(StrEnum):
    """In the order in which nodes are written: writers that lock in one order do not deadlock."""

    DELIBERATION = "Deliberation"
    PLAN = "Plan"
    PLAN_APPROVAL = "PlanApproval"
    SUBTASK = "Subtask"
    PROPOSAL = "Proposal"
    DECISION = "Decision"
    PHASE_TRANSITION = "PhaseTransition"
    STORY = "Story"
    AGENT = "Agent"


@dataclass(frozen=True, slots=True)
class Relation:
    """A relationship; two nodes can have several of it that differ in the properties named by `key`."""

    name: str
    start: Label
    end: Label
    key: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Its name with its ends, which tell it from others of that name."""
        return f"{self.start}_{self.name}_{self.end}"

    def between(self, start: str, end: str, variable: str = "") -> str:
        """The Cypher pattern `(start:Label)-[variable:NAME]->(end:Label)`."""
        return f"({start}:{self.start})-[{variable}:{self.name}]->({end}:{self.end})"


HAS_PLAN = Relation("HAS_PLAN", Label.STORY, Label.PLAN)
APPROVED = Relation("APPROVED", Label.PLAN, Label.PLAN_APPROVAL)
HAS_SUBTASK = Relation("HAS_SUBTASK", Label.PLAN, Label.SUBTASK)
SUBTASK_DEPENDS_ON = Relation("DEPENDS_ON", Label.SUBTASK, Label.SUBTASK)
TRANSITIONED = Relation("TRANSITIONED", Label.STORY, Label.PHASE_TRANSITION)
DELIBERATED = Relation("DELIBERATED", Label.PLAN, Label.DELIBERATION)
STORY_DELIBERATED = Relation("DELIBERATED", Label.STORY, Label.DELIBERATION)
ABOUT = Relation("ABOUT", Label.DELIBERATION, Label.SUBTASK)
RECEIVED = Relation("RECEIVED", Label.DELIBERATION, Label.PROPOSAL)
WROTE = Relation("WROTE", Label.AGENT, Label.PROPOSAL)
RANKED = Relation("RANKED", Label.AGENT, Label.PROPOSAL, key=("step",))
CHOSE = Relation("CHOSE", Label.DELIBERATION, Label.PROPOSAL)
DECIDED = Relation("DECIDED", Label.DELIBERATION, Label.DECISION)
AFFECTS = Relation("AFFECTS", Label.DECISION, Label.SUBTASK)
DECISION_DEPENDS_ON = Relation("DEPENDS_ON", Label.DECISION, Label.DECISION)

# What a record of decisions can have, in the order in which they are written.
RECORDED = (
    HAS_PLAN,
    APPROVED,
    HAS_SUBTASK,
    SUBTASK_DEPENDS_ON,
    DELIBERATED,
    STORY_DELIBERATED,
    ABOUT,
    RECEIVED,
    WROTE,
    RANKED,
    CHOSE,
    DECIDED,
    AFFECTS,
)


@dataclass(frozen=True, slots=True)
class Codec:
    """A model's fields as properties and back: `nested` ones as JSON, those `elsewhere` are found in the graph's shape.

    None is an absent property. A field added to a model is kept without a change here, unless it is nested.
    """

    model: type[BaseModel]
    nested: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()

    def encode(self, value: BaseModel) -> Properties:
        fields = value.model_dump(mode="json", exclude=set(self.elsewhere))
        return {name: self._text(name, field) for name, field in fields.items() if field is not None}

    def decode(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        """The model's fields that are in `properties`; other properties are left out."""
        names = self.model.model_fields.keys() - self.elsewhere
        return {
            name: json.loads(value) if name in self.nested else value
            for name, value in properties.items()
            if name in names
        }

    def _text(self, name: str, field: Any) -> Any:
        return json.dumps(field, ensure_ascii=False) if name in self.nested else field


PLAN = Codec(StoredPlan, nested=frozenset({"plan", "receipt"}))
TRANSITION = Codec(StoryTransition, elsewhere=frozenset({"story_id"}))
DELIBERATION = Codec(Task, nested=frozenset({"constraints"}), elsewhere=frozenset({"deliberation_id"}))
PROPOSAL = Codec(Proposal, nested=frozenset({"content", "revisions", "metadata"}), elsewhere=frozenset({"author_id"}))
RESULT = Codec(RankedProposal, nested=frozenset({"checks"}), elsewhere=frozenset({"proposal"}))
DECISION = Codec(
    Decision,
    nested=frozenset({"weights", "ballots", "failures"}),
    elsewhere=frozenset({"deliberation_id", "task", "results"}),
)


ORPHAN = (
    "SHOW INDEXES YIELD name, labelsOrTypes, properties, owningConstraint "
    "WHERE name = $name AND labelsOrTypes = [$label] AND properties = ['id'] AND owningConstraint IS NULL "
    "RETURN name"
)


def constraint_name(label: Label) -> str:
    return f"{label.name.lower()}_id"


def constraint(label: Label) -> str:
    return f"CREATE CONSTRAINT {constraint_name(label)} IF NOT EXISTS FOR (n:{label}) REQUIRE n.id IS UNIQUE"


def merge_nodes(label: Label) -> str:
    """A part of a statement; $nodes has rows {id, properties} by label."""
    # Every writer of a role writes its agents: setting what they have already would lock them for nothing.
    differs = (
        "WITH n, row WHERE any(name IN keys(row.properties) WHERE coalesce(n[name] <> row.properties[name], true)) "
    )
    return (
        f"CALL () {{ UNWIND $nodes.{label} AS row MERGE (n:{label} {{id: row.id}}) "
        f"{differs if label is Label.AGENT else ''}SET n += row.properties }}"
    )


def merge_relations(relation: Relation) -> str:
    """A part of a statement; $relations has rows {start, end, properties} by label; both ends have to exist."""
    key = ", ".join(f"{name}: row.properties.{name}" for name in relation.key)
    return (
        f"CALL () {{ UNWIND $relations.{relation.label} AS row "
        f"MATCH (a:{relation.start} {{id: row.start}}) MATCH (b:{relation.end} {{id: row.end}}) "
        f"MERGE (a)-[r:{relation.name} {{{key}}}]->(b) SET r += row.properties }}"
    )
