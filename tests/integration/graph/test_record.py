"""What is written for decisions, read back with the reader and, where people query it, with plain Cypher."""

from typing import Any

import pytest

from fleet.errors import Conflict
from fleet.graph import Graph, deliberation_of
from fleet.models import Decision, DeliberationRef, Role, Status, StoredPlan, Subtask
from tests.harness import Neo4jServer
from tests.integration.graph.dump import everything, query, targets
from tests.unit.graph import samples
from tests.unit.graph.samples import AGENTS, HOSTILE


def by_id(*plans: StoredPlan) -> dict[str, StoredPlan]:
    return {plan.plan.plan_id: plan for plan in plans}


@pytest.mark.parametrize(
    "decision",
    [
        samples.decision(samples.plan()),
        samples.failed(samples.plan()),
        samples.cancelled(samples.plan()),
        samples.decision(None, task=samples.task(None, replay_of="deliberation-1")),
        samples.decision(None),
        samples.decision(None, task=samples.task(None, story_id=samples.unique("story"))),
        samples.decision(None, status=Status.COMPLETED, ballots=(), failures=(), weights={}, agreement=None),
    ],
    ids=[
        "partial",
        "failed",
        "cancelled",
        "replay",
        "without plan and story",
        "with a story only",
        "fields at their defaults",
    ],
)
def test_a_decision_reads_back_equal(graph: Graph, decision: Decision) -> None:
    assert not graph.is_recorded(decision.deliberation_id)
    assert graph.decision(decision.deliberation_id) is None

    assert graph.record_decisions([decision]) == (decision.deliberation_id,)

    assert graph.is_recorded(decision.deliberation_id)
    assert graph.decision(decision.deliberation_id) == decision
    assert graph.deliberation(decision.deliberation_id) == deliberation_of(decision)


def test_a_deliberation_shows_what_was_decided(graph: Graph) -> None:
    plan = samples.plan()
    decision = samples.decision(plan)
    graph.record_decisions([decision], by_id(plan))

    shown = graph.deliberation(decision.deliberation_id)

    assert shown is not None
    assert (shown.status, shown.step, shown.winner_id) == (Status.PARTIAL, None, AGENTS[1])
    assert (shown.plan_id, shown.story_id) == (plan.plan.plan_id, plan.plan.story_id)
    assert (shown.results, shown.ballots, shown.failures) == (decision.results, decision.ballots, decision.failures)
    assert (shown.expected_count, shown.current_count, shown.rounds) == (3, 2, 2)
    assert (shown.started_at_ms, shown.finished_at_ms) == (decision.started_at_ms, decision.decided_at_ms)
    assert shown.duration_ms == 7_500


def test_a_cancelled_deliberation_is_shown_as_cancelled(graph: Graph, neo4j_server: Neo4jServer) -> None:
    decision = samples.cancelled(samples.plan())
    graph.record_decisions([decision])

    shown = graph.deliberation(decision.deliberation_id)

    assert shown is not None
    assert (shown.status, shown.winner_id, shown.results) == (Status.CANCELLED, None, ())
    assert targets(neo4j_server, "Deliberation", decision.deliberation_id, "DECIDED") == {decision.decision_id}
    assert targets(neo4j_server, "Deliberation", decision.deliberation_id, "CHOSE") == set()


def test_a_replay_names_what_it_repeats_and_belongs_to_the_plan_that_does_not_list_it(
    graph: Graph, neo4j_server: Neo4jServer
) -> None:
    plan = samples.plan()
    first = samples.decision(plan)
    listed = DeliberationRef(deliberation_id=first.deliberation_id, role=first.task.role, task_id=first.task.task_id)
    receipt = plan.receipt.model_copy(update={"deliberations": (listed,)})
    plan = plan.model_copy(update={"receipt": receipt})
    again = samples.decision(plan, task=samples.task(plan, replay_of=first.deliberation_id, created_at_ms=2**42))
    graph.record_decisions([first], by_id(plan))
    graph.record_decisions([again], by_id(plan))

    shown = graph.deliberation(again.deliberation_id)
    record = graph.plan(plan.plan.plan_id)

    assert shown is not None
    assert shown.replay_of == first.deliberation_id
    statement = "MATCH (d:Deliberation {id: $id}) RETURN d.replay_of AS id"
    assert query(neo4j_server, statement, id=again.deliberation_id) == [{"id": first.deliberation_id}]
    both = {first.deliberation_id, again.deliberation_id}
    assert targets(neo4j_server, "Plan", plan.plan.plan_id, "DELIBERATED") == both
    assert record is not None
    assert (record.stored, record.decisions) == (plan, (first, again))


def test_proposals_of_equal_rank_keep_their_order(graph: Graph) -> None:
    tied = tuple(samples.result(author, 1) for author in (AGENTS[2], AGENTS[0], AGENTS[1]))
    decision = samples.decision(None, results=tied)
    graph.record_decisions([decision])
    assert graph.decision(decision.deliberation_id) == decision


def test_a_plan_reads_back_with_its_decisions_oldest_first(graph: Graph) -> None:
    plan = samples.plan()
    late = samples.decision(plan, task=samples.task(plan, "build", created_at_ms=2))
    early = samples.failed(plan, task=samples.task(plan, "verify", created_at_ms=1))
    graph.record_decisions([late, early], by_id(plan))

    record = graph.plan(plan.plan.plan_id)

    assert record is not None
    assert record.stored == plan
    assert record.story_id == plan.plan.story_id
    assert record.decisions == (early, late)
    assert record.deliberations == (deliberation_of(early), deliberation_of(late))
    assert graph.plan("no-such-plan") is None


def test_a_plan_that_comes_after_its_first_decision_is_filled_in(graph: Graph) -> None:
    plan = samples.plan()
    first, second = samples.decision(plan), samples.decision(plan)
    graph.record_decisions([first])
    record = graph.plan(plan.plan.plan_id)
    assert record is not None
    assert (record.stored, record.decisions) == (None, (first,))

    graph.record_decisions([second], by_id(plan))

    record = graph.plan(plan.plan.plan_id)
    assert record is not None
    assert record.stored == plan
    assert {decision.deliberation_id for decision in record.decisions} == {
        first.deliberation_id,
        second.deliberation_id,
    }


def test_the_graph_has_the_documented_shape(graph: Graph, neo4j_server: Neo4jServer) -> None:
    plan = samples.plan()
    decision = samples.decision(plan)
    graph.record_decisions([decision], by_id(plan))
    story, id, deliberation = plan.plan.story_id, plan.plan.plan_id, decision.deliberation_id

    def to(label: str, start: str, relation: str) -> set[str]:
        return targets(neo4j_server, label, start, relation)

    assert to("Story", story, "HAS_PLAN") == {id}
    assert to("Plan", id, "HAS_SUBTASK") == {f"{id}/{name}" for name in ("design", "build", "verify", "notes")}
    assert to("Subtask", f"{id}/verify", "DEPENDS_ON") == {f"{id}/build"}
    assert to("Plan", id, "APPROVED") == {f"approval:{id}"}
    assert to("Plan", id, "DELIBERATED") == {deliberation}
    assert to("Deliberation", deliberation, "ABOUT") == {f"{id}/build"}
    assert to("Deliberation", deliberation, "RECEIVED") == {f"{deliberation}/{agent}" for agent in AGENTS[:2]}
    assert to("Deliberation", deliberation, "CHOSE") == {f"{deliberation}/{AGENTS[1]}"}
    assert to("Deliberation", deliberation, "DECIDED") == {decision.decision_id}
    assert to("Decision", decision.decision_id, "AFFECTS") == {f"{id}/build"}


def test_what_people_query_has_properties_of_its_own(graph: Graph, neo4j_server: Neo4jServer) -> None:
    plan = samples.plan()
    decision = samples.decision(plan)
    graph.record_decisions([decision], by_id(plan))

    def one(statement: str, id: str) -> dict[str, Any]:
        (row,) = query(neo4j_server, statement, id=id)
        return row

    assert one("MATCH (p:Plan {id: $id}) RETURN p.title AS a, p.complexity AS b, p.roles AS c", plan.plan.plan_id) == {
        "a": "Login with OAuth2",
        "b": "medium",
        "c": ["DEV", "QA"],
    }
    approval = "MATCH (:Plan {id: $id})-[:APPROVED]->(a) RETURN a.approved_by AS by, a.timestamp AS at"
    assert one(approval, plan.plan.plan_id) == {"by": "po@example.org", "at": "2026-03-01T12:00:00.123456Z"}
    subtask = "MATCH (s:Subtask {id: $id}) RETURN s.subtask_id AS id, s.title AS title, s.role AS role"
    assert one(subtask, f"{plan.plan.plan_id}/build") == {"id": "build", "title": "Build it", "role": "DEV"}
    won = """
        MATCH (d:Deliberation {id: $id})-[:CHOSE]->(p)<-[r:RECEIVED]-(d), (p)<-[:WROTE]-(a:Agent)
        RETURN p.summary AS summary, p.confidence AS confidence, p.model AS model, p.tokens AS tokens,
               r.rank AS rank, r.score AS score, a.id AS author, a.role AS role
    """
    assert one(won, decision.deliberation_id) == {
        "summary": f"by {AGENTS[1]}",
        "confidence": 70,
        "model": "smollm2",
        "tokens": 285,
        "rank": 1,
        "score": 1.0,
        "author": AGENTS[1],
        "role": "DEV",
    }
    decided = "MATCH (c:Decision {id: $id}) RETURN c.status AS status, c.winner_id AS winner, c.tokens AS tokens"
    assert one(decided, decision.decision_id) == {"status": "PARTIAL", "winner": AGENTS[1], "tokens": 4711}


def test_an_agent_has_the_role_of_the_newest_record(graph: Graph, neo4j_server: Neo4jServer) -> None:
    author = samples.unique("agent")
    for role in (Role.DEV, Role.QA):
        result = samples.result(author, 1)
        result = result.model_copy(update={"proposal": result.proposal.model_copy(update={"author_role": role})})
        graph.record_decisions([samples.decision(None, results=(result,))])
        assert query(neo4j_server, "MATCH (a:Agent {id: $id}) RETURN a.role AS role", id=author) == [{"role": role}]


def test_valid_ballots_are_relations_one_per_step_and_place(graph: Graph, neo4j_server: Neo4jServer) -> None:
    decision = samples.decision(None)
    graph.record_decisions([decision])
    rows = query(
        neo4j_server,
        """MATCH (:Deliberation {id: $id})-[:RECEIVED]->(p)<-[r:RANKED]-(voter), (p)<-[:WROTE]-(author)
           RETURN voter.id AS voter, r.step AS step, r.round AS round, r.position AS position, author.id AS author""",
        id=decision.deliberation_id,
    )
    assert {tuple(row.values()) for row in rows} == {
        (AGENTS[0], "review:1", 1, 1, AGENTS[1]),
        (AGENTS[2], "review:1", 1, 1, AGENTS[0]),
        (AGENTS[2], "review:1", 1, 2, AGENTS[1]),
        (AGENTS[2], "vote:2", 2, 1, AGENTS[1]),
        (AGENTS[2], "vote:2", 2, 2, AGENTS[0]),
    }


@pytest.mark.parametrize("order", [("design", "build", "verify"), ("verify", "build", "design")])
def test_decisions_depend_on_each_other_as_their_subtasks_do_in_any_order(
    graph: Graph, neo4j_server: Neo4jServer, order: tuple[str, ...]
) -> None:
    plan = samples.plan()
    decisions = {name: samples.decision(plan, task=samples.task(plan, name)) for name in order}
    for name in order:
        graph.record_decisions([decisions[name]], by_id(plan))

    def needs(name: str) -> set[str]:
        return targets(neo4j_server, "Decision", decisions[name].decision_id, "DEPENDS_ON")

    assert needs("verify") == {decisions["build"].decision_id}
    assert needs("build") == {decisions["design"].decision_id}
    assert needs("design") == set()


def test_a_decision_of_a_whole_role_affects_the_roles_subtasks_and_nobodys(
    graph: Graph, neo4j_server: Neo4jServer
) -> None:
    plan = samples.plan()
    decision = samples.decision(plan, task=samples.task(plan, f"{plan.plan.plan_id}.dev", role=Role.DEV))
    graph.record_decisions([decision], by_id(plan))
    affected = targets(neo4j_server, "Decision", decision.decision_id, "AFFECTS")
    assert affected == {f"{plan.plan.plan_id}/build", f"{plan.plan.plan_id}/notes"}
    assert targets(neo4j_server, "Deliberation", decision.deliberation_id, "ABOUT") == set()


def test_plans_with_the_same_subtask_ids_keep_their_own(graph: Graph, neo4j_server: Neo4jServer) -> None:
    one, other = samples.plan(), samples.plan(subtasks=(Subtask(subtask_id="build", title="Another thing"),))
    decisions = [samples.decision(one), samples.decision(other)]
    graph.record_decisions(decisions, by_id(one, other))
    titles = [
        query(neo4j_server, "MATCH (:Decision {id: $id})-[:AFFECTS]->(s) RETURN s.title AS title", id=id)
        for id in (decision.decision_id for decision in decisions)
    ]
    assert titles == [[{"title": "Build it"}], [{"title": "Another thing"}]]


def test_a_deliberation_without_a_plan_belongs_to_its_story(graph: Graph, neo4j_server: Neo4jServer) -> None:
    story = samples.unique("story")
    decision = samples.decision(None, task=samples.task(None, story_id=story))
    graph.record_decisions([decision])
    assert targets(neo4j_server, "Story", story, "DELIBERATED") == {decision.deliberation_id}


def test_recording_again_changes_nothing(graph: Graph, neo4j_empty: Neo4jServer) -> None:
    plan = samples.plan()
    decisions = [samples.decision(plan), samples.failed(plan, task=samples.task(plan, "verify"))]
    graph.record_decisions(decisions, by_id(plan))
    before = everything(neo4j_empty)

    assert graph.record_decisions(decisions, by_id(plan)) == ()
    assert graph.record_decisions(decisions) == ()

    assert everything(neo4j_empty) == before


def test_only_what_is_new_in_a_batch_is_written(graph: Graph) -> None:
    plan = samples.plan()
    early, late = samples.decision(plan), samples.decision(plan, task=samples.task(plan, "verify"))
    graph.record_decisions([early], by_id(plan))
    assert graph.record_decisions([early, late, late, early], by_id(plan)) == (late.deliberation_id,)
    assert graph.record_decisions([]) == ()
    assert graph.decision(early.deliberation_id) == early
    assert graph.decision(late.deliberation_id) == late


def test_another_outcome_for_the_same_deliberation_is_refused_with_all_that_came_with_it(
    graph: Graph, neo4j_empty: Neo4jServer
) -> None:
    decision, companion = samples.decision(None), samples.decision(None)
    graph.record_decisions([decision])
    before = everything(neo4j_empty)
    other = decision.model_copy(update={"winner_id": AGENTS[0]})

    for batch in ([companion, other], [other, companion]):
        with pytest.raises(Conflict, match=decision.deliberation_id):
            graph.record_decisions(batch)
    with pytest.raises(Conflict):
        graph.record_decisions([companion, companion.model_copy(update={"reason": "another"})])

    assert everything(neo4j_empty) == before


def test_another_plan_under_the_same_id_is_refused(graph: Graph) -> None:
    plan = samples.plan()
    graph.record_decisions([samples.decision(plan)], by_id(plan))
    other = samples.plan(plan.plan.plan_id, plan.plan.story_id, title="Something else")
    decision = samples.decision(other)
    with pytest.raises(Conflict, match=plan.plan.plan_id):
        graph.record_decisions([decision], by_id(other))
    assert not graph.is_recorded(decision.deliberation_id)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_data(graph: Graph, neo4j_server: Neo4jServer, text: str) -> None:
    line = text[:400]
    asked = text.replace("\0", "")  # a plan with NUL is refused; what a model writes may have it
    title = asked[:400]
    subtask = Subtask(subtask_id="build", title=title, description=asked)
    plan = samples.plan(title=title, description=asked, approved_by=title, complexity=title[:90], subtasks=(subtask,))
    decision = samples.decision(
        plan,
        task=samples.task(plan, task_description=text, deliberation_id=samples.unique(line)),
        reason=text,
        error_message=text,
        weights={line: 1.0},
        results=(samples.result(AGENTS[1], 1, summary=text, **{line: [text]}),),
    )
    before = query(neo4j_server, "MATCH (n) RETURN count(n) AS n")[0]["n"]

    graph.record_decisions([decision], by_id(plan))

    assert graph.decision(decision.deliberation_id) == decision
    record = graph.plan(plan.plan.plan_id)
    assert record is not None
    assert record.stored == plan
    assert query(neo4j_server, "MATCH (n) RETURN count(n) AS n")[0]["n"] > before
