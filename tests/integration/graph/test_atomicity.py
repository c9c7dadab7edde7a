"""Writers that die, freeze or meet: the graph has all of a record, once, or nothing of it."""

import contextlib
import itertools
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from threading import Barrier
from typing import Any, TypeVar

import neo4j
import psutil
import pytest

from fleet.errors import Conflict
from fleet.graph import Graph
from fleet.graph.schema import Label
from fleet.models import StoredPlan, StoryPhase, Subtask
from tests.harness import Neo4jServer, wait_until
from tests.integration.graph.dump import everything, query, targets
from tests.integration.graph.dying_writer import RESULTS, start_writer
from tests.integration.graph.test_transitions import step
from tests.unit.graph import samples

T = TypeVar("T")
WRITERS = 8


def deaths(server: Neo4jServer, method: str, *arguments: Any) -> int:
    """Kills a writer before its first statement, then one before its second, …; how many until one wrote it all."""
    before = everything(server)
    for number in itertools.count(1):
        writer = start_writer(server, method, arguments, signal.SIGKILL, number)
        writer.join(60)
        if writer.exitcode == 0:
            return number - 1
        assert writer.exitcode == -signal.SIGKILL, "the writer failed"
        assert everything(server) == before, f"killed before statement {number}"
    raise AssertionError


def test_a_writer_killed_anywhere_leaves_nothing_and_the_next_write_is_complete(
    graph: Graph, neo4j_empty: Neo4jServer
) -> None:
    plan = samples.plan()
    decisions = [samples.decision(plan), samples.failed(plan, task=samples.task(plan, "verify"))]

    killed = deaths(neo4j_empty, "record_decisions", decisions, {plan.plan.plan_id: plan})

    assert killed == 3, "it claims, writes and commits"
    record = graph.plan(plan.plan.plan_id)
    assert record is not None
    assert record.stored == plan
    assert sorted(record.decisions, key=lambda decision: decision.task.task_id) == decisions


def test_a_transition_killed_anywhere_leaves_nothing_and_the_next_write_is_complete(
    graph: Graph, neo4j_empty: Neo4jServer
) -> None:
    transition = step(samples.unique("story"), StoryPhase.DRAFT, StoryPhase.DESIGN)

    assert deaths(neo4j_empty, "record_transition", transition) == 2, "it writes and commits"

    assert graph.transitions(transition.story_id) == (transition,)
    assert graph.phase(transition.story_id) == StoryPhase.DESIGN


def test_a_writer_that_freezes_holds_its_locks_no_longer_than_a_transaction_may_take(
    graph: Graph, neo4j_empty: Neo4jServer
) -> None:
    decision = samples.decision(None)
    writer = start_writer(neo4j_empty, "record_decisions", ([decision],), signal.SIGSTOP, 3, transaction_timeout_s=5)
    with frozen(writer):
        assert graph.record_decisions([decision]) == (decision.deliberation_id,)
    assert graph.decision(decision.deliberation_id) == decision


@pytest.mark.parametrize("at", [1, len(Label), len(Label) + 1])
def test_a_worker_that_freezes_while_it_makes_the_schema_holds_nobody_up(
    graph: Graph, neo4j_server: Neo4jServer, at: int
) -> None:
    drop_constraints(neo4j_server)
    writer = start_writer(neo4j_server, "ensure_schema", (), signal.SIGSTOP, at, RESULTS)
    with ThreadPoolExecutor() as pool, frozen(writer):
        pool.submit(graph.ensure_schema).result(20)
    assert len(query(neo4j_server, "SHOW CONSTRAINTS")) == len(Label)


def test_an_index_that_a_neo4j_killed_while_making_a_constraint_left_behind_is_replaced(
    graph: Graph, neo4j_server: Neo4jServer
) -> None:
    drop_constraints(neo4j_server)
    query(neo4j_server, "CREATE INDEX agent_id FOR (n:Agent) ON (n.id)")
    at_once(*[graph.ensure_schema] * 2)
    assert len(query(neo4j_server, "SHOW CONSTRAINTS")) == len(Label)


@contextlib.contextmanager
def frozen(writer: BaseProcess) -> Iterator[None]:
    """Once the writer has stopped; it is killed afterwards."""
    try:
        process = psutil.Process(writer.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, what="the writer is frozen")
        yield
    finally:
        writer.kill()
        writer.join(10)


def drop_constraints(server: Neo4jServer) -> None:
    for row in query(server, "SHOW CONSTRAINTS YIELD name"):
        query(server, f"DROP CONSTRAINT {row['name']}")


def at_once(*works: Callable[[], T]) -> list[T]:
    """Runs the works in as many threads, started together."""
    barrier = Barrier(len(works))

    def run(work: Callable[[], T]) -> T:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def without_clock(server: Neo4jServer) -> list[str]:
    rows = [json.loads(row) for row in everything(server)]
    for row in rows:
        row["properties"].pop("updated_at_ms", None)
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def test_the_same_record_written_by_many_at_once_is_written_once(graph: Graph) -> None:
    plan = samples.plan()
    decision = samples.decision(plan)
    write = lambda: graph.record_decisions([decision], {plan.plan.plan_id: plan})  # noqa: E731

    written = at_once(*[write] * WRITERS)

    assert sorted(written) == [()] * (WRITERS - 1) + [(decision.deliberation_id,)]
    assert graph.decision(decision.deliberation_id) == decision


def test_many_writers_of_one_plan_make_the_graph_that_one_writer_makes(graph: Graph, neo4j_empty: Neo4jServer) -> None:
    plan = samples.plan()
    plans = {plan.plan.plan_id: plan}
    names = ("design", "build", "verify", "notes") * 2
    decisions = [samples.decision(plan, task=samples.task(plan, name)) for name in names]
    graph.record_decisions(decisions, plans)
    expected = without_clock(neo4j_empty)
    query(neo4j_empty, "MATCH (n) DETACH DELETE n")

    pairs = zip(decisions, decisions[1:] + decisions[:1], strict=True)
    at_once(*[lambda pair=pair: graph.record_decisions(pair, plans) for pair in pairs])

    assert without_clock(neo4j_empty) == expected


def test_decisions_written_at_once_still_depend_on_each_other(graph: Graph, neo4j_server: Neo4jServer) -> None:
    chain = [Subtask(subtask_id=f"s{n}", title="x", depends_on=(f"s{n - 1}",) if n else ()) for n in range(WRITERS)]
    plan = samples.plan(subtasks=tuple(chain))
    plans = {plan.plan.plan_id: plan}
    graph.record_decisions([samples.failed(plan)], plans)
    decisions = [samples.failed(plan, task=samples.task(plan, subtask.subtask_id)) for subtask in chain]

    at_once(*[lambda d=d: graph.record_decisions([d], plans) for d in decisions])

    for earlier, later in itertools.pairwise(decisions):
        assert targets(neo4j_server, "Decision", later.decision_id, "DEPENDS_ON") == {earlier.decision_id}


@pytest.mark.parametrize("attempt", range(3))
def test_of_two_plans_that_claim_one_id_at_once_only_one_is_written(graph: Graph, attempt: int) -> None:  # noqa: ARG001
    one = samples.plan()
    other = samples.plan(one.plan.plan_id, one.plan.story_id, title="Something else")
    graph.record_decisions([samples.decision(one)])  # the plan's node is there already, without its content

    def write(plan: StoredPlan) -> StoredPlan | None:
        try:
            graph.record_decisions([samples.decision(plan)], {plan.plan.plan_id: plan})
        except Conflict:
            return None
        return plan

    written = at_once(*[lambda plan=plan: write(plan) for plan in (one, other) * (WRITERS // 2)])

    record = graph.plan(one.plan.plan_id)
    assert record is not None
    assert record.stored in (one, other)
    assert [plan for plan in written if plan] == [record.stored] * (WRITERS // 2)


def test_writers_of_several_plans_of_a_story_and_of_its_transitions_do_not_lose_each_others_work(
    graph: Graph, neo4j_empty: Neo4jServer
) -> None:
    story = samples.unique("story")
    plans = [samples.plan(story_id=story) for _ in range(WRITERS // 2)]
    decisions = [samples.decision(plan) for plan in plans]
    transitions = [step(story, StoryPhase.BUILD, StoryPhase.TEST, minutes) for minutes in range(WRITERS // 2)]

    at_once(
        *[
            lambda d=d, p=p: graph.record_decisions([d], {p.plan.plan_id: p})
            for d, p in zip(decisions, plans, strict=True)
        ],
        *[lambda t=t: graph.record_transition(t) for t in transitions],
    )

    assert [graph.decision(decision.deliberation_id) for decision in decisions] == decisions
    assert graph.transitions(story) == tuple(transitions)
    newest = query(neo4j_empty, "MATCH (s:Story {id: $id}) RETURN s.at_us AS us", id=story)
    assert newest == query(neo4j_empty, "MATCH (t:PhaseTransition) RETURN max(t.at_us) AS us")


def test_a_storys_phase_is_that_of_its_newest_transition_however_many_write(graph: Graph) -> None:
    stories = [samples.unique("story") for _ in range(20)]
    for story in stories:
        transitions = [step(story, StoryPhase.BUILD, phase) for phase in StoryPhase]
        at_once(*[lambda one=one: graph.record_transition(one) for one in transitions])
    assert {graph.phase(story) for story in stories} == {StoryPhase.DONE}


def test_every_label_has_unique_ids_however_many_create_the_schema(graph: Graph, neo4j_server: Neo4jServer) -> None:
    drop_constraints(neo4j_server)

    at_once(*[graph.ensure_schema] * WRITERS)
    graph.ensure_schema()

    found = query(neo4j_server, "SHOW CONSTRAINTS YIELD type, labelsOrTypes AS labels, properties AS names")
    assert sorted(row["labels"] for row in found) == sorted([str(label)] for label in Label)
    assert all("UNIQUENESS" in row["type"] and row["names"] == ["id"] for row in found)
    with pytest.raises(neo4j.exceptions.ConstraintError):
        query(neo4j_server, "UNWIND [1, 2] AS n CREATE (:Story {id: 'twice'})")
