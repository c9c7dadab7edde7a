"""A client that a generator makes from /openapi.json works."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.api import create_app
from fleet.settings import Settings
from tests.harness import ValkeyServer

from .conftest import KEY, Gunicorn

NAME = "generated_fleet_client"
PLAN = {"plan_id": "plan-1", "story_id": "story-1", "roles": ["DEV"], "subtasks": [{"subtask_id": "s1", "title": "t"}]}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Imports modules of the generated package: `generated("api.plans.submit_plan")`."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(create_app(Settings()).test_client().get("/openapi.json").json))
    arguments = ["generate", "--path", "openapi.json", "--meta", "none", "--output-path", NAME]
    command = [sys.executable, "-m", "openapi_python_client", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if "unsupported" in line.lower() or "WARNING parsing" in line]
    assert skipped == []
    sys.path.insert(0, str(folder))
    yield lambda name: importlib.import_module(f"{NAME}.{name}")
    sys.path.remove(str(folder))


@pytest.fixture
def client(generated: Any, served: Gunicorn, valkey_server: ValkeyServer) -> Any:  # noqa: ARG001
    return generated("client").AuthenticatedClient(base_url=f"http://127.0.0.1:{served.port}", token=KEY)


def test_a_plan_is_handed_in_looked_at_and_cancelled(generated: Any, client: Any) -> None:
    body = generated("models").PlanRequest.from_dict(PLAN)
    accepted = generated("api.plans.submit_plan").sync_detailed(client=client, body=body)
    assert accepted.status_code == 202
    id = accepted.parsed.deliberations[0].deliberation_id
    assert generated("api.plans.get_plan").sync("plan-1", client=client).plan.story_id == "story-1"
    found = generated("api.deliberations.list_deliberations").sync(client=client, plan_id="plan-1")
    assert [one.deliberation_id for one in found.items] == [id]
    cancelled = generated("api.deliberations.cancel_deliberation").sync(id, client=client)
    assert cancelled.status == "CANCELLED"


def test_a_problem_is_an_object_with_its_faults(generated: Any, client: Any) -> None:
    missing = generated("api.deliberations.get_deliberation").sync_detailed("nobody", client=client, wait=0)
    assert missing.status_code in (404, 503)  # 503 as long as Neo4j, which might know it, is away
    assert missing.parsed.status == missing.status_code
    body = generated("models").PlanRequest.from_dict({**PLAN, "rounds": 99})
    refused = generated("api.plans.submit_plan").sync(client=client, body=body)
    assert [tuple(fault.loc) for fault in refused.errors] == [("body", "rounds")]


def test_councils_keys_and_dead_letters_are_managed(generated: Any, client: Any) -> None:
    models = generated("models")
    council = models.CouncilRequest.from_dict({"role": "QA", "num_agents": 2})
    made = generated("api.councils.create_council").sync(client=client, body=council)
    assert [agent.agent_id for agent in made.agents] == ["agent-qa-001", "agent-qa-002"]
    assert generated("api.councils.delete_council").sync_detailed("QA", client=client).status_code == 204
    wanted = models.ApiKeyRequest.from_dict({"name": "reader", "scopes": ["read"]})
    key = generated("api.keys.create_key").sync(client=client, body=wanted)
    reader = generated("client").AuthenticatedClient(base_url=client._base_url, token=key.key)
    assert generated("api.deadletters.list_dead_letters").sync(client=reader).items == []
    assert generated("api.keys.list_keys").sync_detailed(client=reader).status_code == 403
