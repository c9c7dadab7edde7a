"""One model for writer and reader: every field of a record is kept, every statement uses the schema's names."""

import re
from datetime import UTC, datetime
from typing import Any

import neo4j
import pytest
from neo4j import exceptions

from fleet.graph import client, reader, record, schema, writer
from fleet.graph.record import Record
from fleet.graph.schema import Codec, Label, Relation
from fleet.models import Ballot, StoryPhase, StoryTransition
from tests.unit.graph import samples

RELATIONS = [value for value in vars(schema).values() if isinstance(value, Relation)]
STATEMENTS = {
    "claim decisions": writer.CLAIM_DECISIONS,
    "write decisions": writer.WRITE_DECISIONS,
    "record transition": writer.RECORD_TRANSITION,
    "decisions": reader.DECISIONS,
    "plan": reader.PLAN,
    "is recorded": reader.IS_RECORDED,
    "transitions": reader.TRANSITIONS,
    "phase": reader.PHASE,
}


def recorded() -> Record:
    plan = samples.plan()
    new = Record()
    record.add_plan(new, plan)
    record.add_decision(new, samples.decision(plan), plan)
    record.add_decision(new, samples.decision(None, task=samples.task(None, story_id="story-1")), None)
    return new


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_know_no_labels_and_relations_but_the_schemas(name: str) -> None:
    used = set(re.findall(r"(?<=[(\[\w]):(\w+)|\[:(\w+)", STATEMENTS[name]))
    names = {one or other for one, other in used}
    assert names
    assert names <= {str(label) for label in Label} | {relation.name for relation in RELATIONS}


def test_a_record_has_every_label_and_relation_that_decisions_are_made_of() -> None:
    written = recorded()
    others = {Label.PHASE_TRANSITION}
    assert {label for label, rows in written.nodes().items() if rows} == set(Label) - others
    by_cypher = {schema.TRANSITIONED, schema.DECISION_DEPENDS_ON}
    assert {relation for relation, rows in written.relations().items() if rows} == set(RELATIONS) - by_cypher


def test_relations_lead_only_to_nodes_that_are_written() -> None:
    written = recorded()
    ids = {label: {row["id"] for row in rows} for label, rows in written.nodes().items()}
    for relation, rows in written.relations().items():
        assert {row["start"] for row in rows} <= ids[relation.start], relation
        assert {row["end"] for row in rows} <= ids[relation.end], relation


def _storable(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, str | bool | float | int)


def test_every_property_is_one_that_neo4j_can_hold() -> None:
    written = recorded()
    for kind, rows in [*written.nodes().items(), *written.relations().items()]:
        for row in rows:
            bad = {name: value for name, value in row["properties"].items() if not _storable(value)}
            assert not bad, (kind, bad)


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (schema.PLAN, samples.plan()),
        (schema.DELIBERATION, samples.task(samples.plan())),
        (schema.PROPOSAL, samples.result("agent-dev-001", 1).proposal),
        (schema.RESULT, samples.result("agent-dev-001", 1)),
        (schema.DECISION, samples.decision()),
    ],
)
def test_fields_are_encoded_and_decoded_or_found_elsewhere(codec: Codec, value: Any) -> None:
    decoded = codec.decode(codec.encode(value))
    elsewhere = {name: getattr(value, name) for name in codec.elsewhere}
    assert codec.model.model_validate({**decoded, **elsewhere}) == value


def test_writers_lock_nodes_in_one_order() -> None:
    written = Record()
    for id in ("b", "a", "c"):
        written.add(Label.AGENT, id)
        written.add(Label.PLAN, id)
    nodes = {label: [row["id"] for row in rows] for label, rows in written.nodes().items() if rows}
    assert list(nodes.items()) == [(Label.PLAN, ["a", "b", "c"]), (Label.AGENT, ["a", "b", "c"])]
    statement = writer.WRITE_DECISIONS
    assert sorted(Label, key=lambda label: statement.index(f"$nodes.{label} ")) == list(Label)


@pytest.mark.parametrize(
    "content", [{}, {"summary": ["a"], "confidence": {"a": 1}}, {"summary": None, "confidence": 2**70}]
)
def test_a_proposal_without_a_plain_summary_has_no_property_of_that_name(content: dict[str, Any]) -> None:
    result = samples.result("agent-dev-001", 1)
    result = result.model_copy(update={"proposal": result.proposal.model_copy(update={"content": content})})
    new = Record()
    record.add_decision(new, samples.decision(None, results=(result,)), None)
    (row,) = new.nodes()[Label.PROPOSAL]
    assert not {"summary", "confidence"} & row["properties"].keys()


def test_ballots_make_relations_to_known_proposals_only() -> None:
    ballot = Ballot(agent_id="agent-dev-003", step="vote:1", ranking=("nobody", "agent-dev-001"), valid=True)
    new = Record()
    record.add_decision(new, samples.decision(None, ballots=(ballot,)), None)
    rows = new.relations()[schema.RANKED]
    assert [(row["start"], row["properties"]["position"]) for row in rows] == [("agent-dev-003", 2)]


@pytest.mark.parametrize(
    ("step", "round"), [("review:1", 1), ("vote:12", 12), ("vote", 0), ("vote:", 0), ("vote:x", 0)]
)
def test_a_step_tells_its_round(step: str, round: int) -> None:
    assert record.round_of(step) == round


def test_a_digest_depends_on_the_content_only() -> None:
    decision = samples.decision()
    again = type(decision).model_validate_json(decision.model_dump_json())
    assert record.decision_digest(again) == record.decision_digest(decision)
    other = decision.model_copy(update={"reason": "another"})
    assert record.decision_digest(other) != record.decision_digest(decision)


def test_a_transition_counts_microseconds_since_1970() -> None:
    transition = StoryTransition(
        story_id="s",
        from_phase=StoryPhase.DRAFT,
        to_phase=StoryPhase.DESIGN,
        timestamp=datetime(1970, 1, 2, 0, 0, 0, 7, UTC),
    )
    assert record.at_us(transition) == 86_400_000_007


def _from_server(code: str) -> exceptions.Neo4jError:
    return exceptions.Neo4jError._basic_hydrate(neo4j_code=code, message="m")


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ServiceUnavailable("x"),
        exceptions.SessionExpired("x"),
        exceptions.IncompleteCommit("x"),
        exceptions.ConnectionAcquisitionTimeoutError("x"),
        _from_server("Neo.ClientError.Security.Unauthorized"),
        _from_server("Neo.ClientError.Security.AuthenticationRateLimit"),
        _from_server("Neo.ClientError.Security.CredentialsExpired"),
        _from_server("Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration"),
        _from_server("Neo.ClientError.Database.DatabaseNotFound"),
        _from_server("Neo.TransientError.Transaction.DeadlockDetected"),
        _from_server("Neo.TransientError.General.DatabaseUnavailable"),
        _from_server("Neo.DatabaseError.General.UnknownError"),
    ],
    ids=lambda error: getattr(error, "code", None) or type(error).__name__,
)
def test_what_can_go_away_is_an_outage(error: Exception) -> None:
    assert client._is_outage(error)


@pytest.mark.parametrize(
    "error",
    [
        _from_server("Neo.ClientError.Statement.SyntaxError"),
        _from_server("Neo.ClientError.Statement.ParameterMissing"),
        _from_server("Neo.ClientError.Schema.ConstraintValidationFailed"),
        exceptions.ResultNotSingleError(None, "x"),
    ],
    ids=lambda error: getattr(error, "code", None) or type(error).__name__,
)
def test_a_mistake_of_fleets_own_is_none(error: Exception) -> None:
    assert not client._is_outage(error)


def test_a_graph_connects_only_when_it_is_used() -> None:
    graph = client.Graph("bolt://127.0.0.1:1", "neo4j", "")
    assert isinstance(graph._driver, neo4j.Driver)
    graph.close()
