"""`fleet up --engine vllm` with its real processes, once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import neo4j
import pytest

from tests.acceptance.conftest import RunningFleet

pytestmark = pytest.mark.timeout(600)

NewPlan = Callable[..., dict[str, Any]]


def written(fleet: RunningFleet, deliberation_id: str) -> list[str]:
    """The agents of a deliberation's proposals in Neo4j."""
    details = fleet.details
    login = (details["neo4j_user"], details["neo4j_password"])
    cypher = "MATCH (:Deliberation {id: $id})-[:RECEIVED]->(:Proposal)<-[:WROTE]-(a:Agent) RETURN a.id AS id"
    with neo4j.GraphDatabase.driver(details["neo4j_uri"], auth=login) as driver:
        return sorted(record["id"] for record in driver.execute_query(cypher, id=deliberation_id).records)


def test_a_plan_is_deliberated_by_vllm_and_ends_in_the_graph(vllm_fleet: RunningFleet, new_plan: NewPlan) -> None:
    plan = new_plan(roles=["DEV"], num_agents=3, rounds=0, constraints={"timeout_seconds": 150})
    [id] = vllm_fleet.submit(plan)
    found = vllm_fleet.final(id, 240)
    assert found["status"] in ("COMPLETED", "PARTIAL"), found
    proposals = [result["proposal"] for result in found["results"]]
    assert {Path(proposal["model"]).name for proposal in proposals} == {"SmolLM2-135M-Instruct"}
    assert all(proposal["tokens"] > 20 for proposal in proposals)
    assert written(vllm_fleet, id) == sorted(proposal["author_id"] for proposal in proposals)
