"""From an approved plan to a decision in the graph, through the real processes."""

import asyncio
import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import nats
import neo4j
import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy

from tests.acceptance.conftest import RunningFleet
from tests.harness import wait_until

NewPlan = Callable[..., dict[str, Any]]


def publish(fleet: RunningFleet, subject: str, *payloads: bytes) -> None:
    async def run() -> None:
        connection = await nats.connect(fleet.details["nats_url"])
        for payload in payloads:
            await connection.jetstream().publish(subject, payload)
        await connection.close()

    asyncio.run(run())


def events(fleet: RunningFleet, stream: str, deliberation_id: str) -> list[dict[str, Any]]:
    """What the stream holds about a deliberation, in order, with the subject of each."""

    async def run() -> list[dict[str, Any]]:
        connection = await nats.connect(fleet.details["nats_url"])
        found = []
        try:
            jetstream = connection.jetstream()
            config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
            subscription = await jetstream.subscribe(">", stream=stream, ordered_consumer=True, config=config)
            for _ in range((await jetstream.stream_info(stream)).state.messages):
                message = await subscription.next_msg(timeout=5)
                found.append({**json.loads(message.data), "subject": message.subject})
        finally:
            await connection.close()
        return [event for event in found if event.get("deliberation_id") == deliberation_id]

    return asyncio.run(run())


def approval(plan: dict[str, Any]) -> bytes:
    return json.dumps({**plan, "timestamp": datetime.now(UTC).isoformat()}).encode()


def query(fleet: RunningFleet, cypher: str, **parameters: Any) -> list[dict[str, Any]]:
    details = fleet.details
    with neo4j.GraphDatabase.driver(
        details["neo4j_uri"], auth=(details["neo4j_user"], details["neo4j_password"])
    ) as driver:
        return [record.data() for record in driver.execute_query(cypher, **parameters).records]


def deliberations(fleet: RunningFleet, plan_id: str) -> list[dict[str, Any]]:
    answer = fleet.http.get(f"/v1/plans/{plan_id}")
    return list(answer.json()["deliberations"]) if answer.status_code == 200 else []


def test_a_plan_by_http_ends_as_a_ranked_decision_in_the_graph(fleet: RunningFleet, new_plan: NewPlan) -> None:
    [id] = fleet.submit(new_plan())
    found = fleet.final(id)
    assert found["status"] == "COMPLETED", found
    assert [result["rank"] for result in found["results"]] == [1, 2, 3]
    assert found["results"][0]["proposal"]["author_id"] == found["winner_id"]
    assert found["winner_id"] in found["reason"]
    [row] = query(
        fleet,
        "MATCH (x:Decision)<-[:DECIDED]-(d:Deliberation {id: $id})-[:CHOSE]->(p:Proposal)<-[:WROTE]-(a:Agent) "
        "RETURN a.id AS winner, x.status AS status, count { (d)-[:RECEIVED]->(:Proposal) } AS proposals",
        id=id,
    )
    assert row == {"winner": found["winner_id"], "status": "COMPLETED", "proposals": 3}


def test_a_plan_approved_on_nats_is_deliberated_for_each_of_its_subtasks(
    fleet: RunningFleet, new_plan: NewPlan
) -> None:
    subtasks = [
        {"subtask_id": "code", "title": "Write it", "role": "DEV"},
        {"subtask_id": "tests", "title": "Test it", "role": "QA", "depends_on": ["code"]},
    ]
    plan = new_plan(subtasks=subtasks)
    publish(fleet, "planning.plan.approved", approval(plan))
    found = wait_until(lambda: deliberations(fleet, plan["plan_id"]), what="the listener took the plan")
    assert {one["task_id"] for one in found} == {"code", "tests"}
    assert {fleet.final(one["deliberation_id"])["status"] for one in found} == {"COMPLETED"}


def test_the_events_of_a_deliberation_go_out_once_and_in_order(fleet: RunningFleet, new_plan: NewPlan) -> None:
    [id] = fleet.submit(new_plan())
    fleet.final(id)

    def relayed() -> list[dict[str, Any]] | None:
        found = events(fleet, "ORCHESTRATOR_EVENTS", id)
        return found if found and found[-1]["subject"].endswith("completed") and "status" in found[-1] else None

    found = wait_until(relayed, what="the completed event is on NATS")
    assert found is not None
    subjects = [event["subject"].removeprefix("orchestration.") for event in found]
    assert subjects.count("task.dispatched") == 3
    assert subjects.count("deliberation.started") == subjects.count("deliberation.completed") == 1
    steps = [event["step"] for event in found if event["subject"].endswith("stepped")]
    assert steps == ["review:1", "revise:1", "vote:1", "record"]
    assert [event["timestamp"] for event in found[-1:]] == [max(event["timestamp"] for event in found)]
    assert len(events(fleet, "AGENT_RESULTS", id)) == 6


def test_the_same_plan_by_nats_and_http_at_once_is_deliberated_once(fleet: RunningFleet, new_plan: NewPlan) -> None:
    plan = new_plan(roles=["DEV", "QA"])
    with ThreadPoolExecutor(6) as pool:
        by_http = [pool.submit(fleet.http.post, "/v1/plans", json=plan) for _ in range(4)]
        pool.submit(publish, fleet, "planning.plan.approved", *[approval(plan)] * 4).result()
    answers = [answer.result() for answer in by_http]
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert len({answer.text for answer in answers}) == 1
    for one in answers[0].json()["deliberations"]:
        assert fleet.final(one["deliberation_id"])["status"] == "COMPLETED"
    cypher = "MATCH (:Plan {id: $id})-[:DELIBERATED]->(d)-[:RECEIVED]->(p) RETURN d.id, count(p) AS n"
    rows = query(fleet, cypher, id=plan["plan_id"])
    assert [row["n"] for row in rows] == [3, 3]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "JSON"),
        (json.dumps({"plan_id": "p", "story_id": "s"}).encode(), "approved_by"),
        (json.dumps({"plan_id": "p", "story_id": "s", "approved_by": "x", "timestamp": "2026-01-01T00:00:00Z",
                     "roles": ["WIZARD"]}).encode(), "roles"),
    ],
)  # fmt: skip
def test_an_event_that_cannot_be_a_plan_becomes_a_dead_letter(fleet: RunningFleet, payload: bytes, reason: str) -> None:
    marked = payload + b" " * (uuid.uuid4().int % 10_000)  # trailing blanks make it another message
    publish(fleet, "planning.plan.approved", marked)

    def look() -> dict[str, Any] | None:
        items = fleet.http.get("/v1/deadletters").json()["items"]
        return next((one for one in items if len(one["payload"]) == len(marked)), None)

    letter = wait_until(look, what="the dead letter is listed")
    assert letter is not None
    assert reason in letter["reason"]
    assert json.loads(fleet.cli("deadletter", "list", "--json").stdout)["items"]


def test_a_proposal_that_does_not_parse_ends_below_the_good_ones(fleet: RunningFleet, new_plan: NewPlan) -> None:
    [id] = fleet.submit(new_plan(roles=["QA"]))
    found = fleet.final(id)
    assert found["status"] == "COMPLETED"
    assert found["results"][-1]["proposal"]["author_id"] == "agent-qa-003"
    assert found["results"][-1]["score"] < found["results"][0]["score"]


def test_a_silent_agent_makes_the_outcome_partial_not_lost(fleet: RunningFleet, new_plan: NewPlan) -> None:
    [id] = fleet.submit(new_plan(roles=["DEVOPS"]))
    found = fleet.final(id)
    assert found["status"] == "PARTIAL"
    assert {failure["agent_id"] for failure in found["failures"]} == {"agent-devops-002"}
    assert found["current_count"] == 2
    assert found["winner_id"]


def test_without_a_quorum_a_deliberation_fails_and_says_why(fleet: RunningFleet, new_plan: NewPlan) -> None:
    [id] = fleet.submit(new_plan(roles=["DATA"]))
    found = fleet.final(id)
    assert found["status"] == "FAILED"
    assert "0 valid proposals of 3; a decision needs 2" in found["error_message"]
    assert found.get("winner_id") is None


def test_agents_that_fail_now_and_then_cost_their_own_proposal_only(fleet: RunningFleet, new_plan: NewPlan) -> None:
    plans = [new_plan(roles=["ARCHITECT"], title=f"Part {number}", description="Design it.") for number in range(8)]
    found = [fleet.final(id) for plan in plans for id in fleet.submit(plan)]
    for one in found:
        failed = [failure for failure in one["failures"] if failure["step"] == "propose:0"]
        assert {failure["failure"]["type"] for failure in failed} <= {"engine"}
        assert one["status"] == ["COMPLETED", "PARTIAL", "FAILED", "FAILED"][len(failed)]
        assert one["current_count"] == 3 - len(failed)
    assert {"PARTIAL", "FAILED"} <= {one["status"] for one in found}  # what fails depends on the task's text alone


def test_the_deadline_ends_what_the_agents_do_not(fleet: RunningFleet, new_plan: NewPlan) -> None:
    [id] = fleet.submit(new_plan(roles=["DEVOPS"], constraints={"timeout_seconds": 1}))
    found = fleet.final(id)
    assert found["status"] == "PARTIAL"
    assert found["current_count"] == 2


def test_more_agents_than_the_council_has_are_numbered_on(fleet: RunningFleet, new_plan: NewPlan) -> None:
    [id] = fleet.submit(new_plan(num_agents=5, rounds=0))
    found = fleet.final(id)
    assert found["agents"] == [f"agent-dev-00{number}" for number in range(1, 6)]
    assert len(found["results"]) == 5


def test_a_single_agent_needs_no_peers(fleet: RunningFleet, new_plan: NewPlan) -> None:
    [id] = fleet.submit(new_plan(num_agents=1))
    found = fleet.final(id)
    assert (found["status"], found["winner_id"]) == ("COMPLETED", "agent-dev-001")


def test_three_rounds_review_and_revise_three_times(fleet: RunningFleet, new_plan: NewPlan) -> None:
    [id] = fleet.submit(new_plan(rounds=3))
    found = fleet.final(id)
    assert [len(result["proposal"]["revisions"]) for result in found["results"]] == [3, 3, 3]
