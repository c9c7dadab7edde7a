"""Every verb that asks the API, for people and for programs."""

import json
import os
import subprocess
from typing import Any

import pytest

from fleet.cluster import Job, WorkerState
from fleet.stack.scripts import script
from tests.integration.cli.conftest import Served

PLAN = {"plan_id": "p-1", "story_id": "s-1", "title": "Reset", "roles": ["DEV", "QA"]}


def submit(served: Served, **changes: Any) -> Any:
    return served.json("plan", "submit", "-", stdin=json.dumps({**PLAN, **changes}))


def test_a_plan_is_handed_in_shown_and_listed(served: Served) -> None:
    receipt = submit(served)
    assert [one["role"] for one in receipt["deliberations"]] == ["DEV", "QA"]
    assert served.json("plan", "show", "p-1")["plan"]["title"] == "Reset"
    assert "p-1 · s-1 · Reset" in served.cli("plan", "show", "p-1").stdout
    assert "2 PENDING" in served.cli("plan", "list").stdout


def test_the_same_plan_again_changes_nothing_and_another_one_is_refused_with_the_next_step(served: Served) -> None:
    assert submit(served) == submit(served)
    refused = served.cli("plan", "submit", "-", stdin=json.dumps({**PLAN, "title": "Else"}))
    assert refused.exit_code == 1
    assert "give the changed plan another plan_id" in refused.stderr


def test_plans_are_listed_by_story(served: Served) -> None:
    submit(served)
    submit(served, plan_id="p-2", story_id="s-2")
    assert [one["plan_id"] for one in served.json("plan", "list", "--story", "s-2")["items"]] == ["p-2"]


def test_a_date_in_yaml_is_a_timestamp(served: Served) -> None:
    text = "plan_id: p-1\nstory_id: s-1\nroles: [DEV]\ntimestamp: 2026-11-21T10:00:00Z\n"
    assert served.json("plan", "submit", "-", stdin=text)["plan_id"] == "p-1"


def test_a_deliberation_is_asked_for_with_all_that_it_can_be_given(served: Served) -> None:
    options = ["--role", "dev", "--rounds", "2", "--agents", "5", "--timeout", "60", "--story", "s-1"]
    options += ["--requirement", "fast", "--requirement", "small"]
    found = served.json("deliberation", "run", "Write a function", *options)
    task = served.store.deliberations.task(found["deliberation_id"])
    assert (task.role, task.rounds, len(task.agents), task.timeout_ms, task.story_id) == ("DEV", 2, 5, 60_000, "s-1")
    assert task.constraints.requirements == ("fast", "small")


def test_a_task_is_read_from_standard_input(served: Served) -> None:
    found = served.json("deliberation", "run", "-", "--role", "QA", stdin="Plan the tests")
    assert found["task_description"] == "Plan the tests"


def test_people_get_the_id_on_stdout_and_how_to_watch_it_on_stderr(served: Served) -> None:
    done = served.cli("deliberation", "run", "Write a function", "--role", "DEV")
    assert served.json("deliberation", "show", done.stdout.strip())["role"] == "DEV"
    assert f"fleet deliberation watch {done.stdout.strip()}" in done.stderr


def test_deliberations_are_listed_by_status_role_and_plan(served: Served) -> None:
    submit(served)
    alone = served.pending("QA")
    served.finish(alone)

    def ids(*options: str) -> list[str]:
        return [one["deliberation_id"] for one in served.json("deliberation", "list", *options)["items"]]

    assert len(ids()) == 3
    assert ids("--status", "failed") == [alone]
    assert len(ids("--role", "qa")) == 2
    assert len(ids("--plan", "p-1")) == 2
    assert len(ids("--plan", "p-1", "--role", "DEV", "--status", "PENDING")) == 1
    assert alone in served.cli("deliberation", "list").stdout


def test_a_narrow_terminal_shows_whole_ids(served: Served) -> None:
    id = served.pending()
    for columns in ("60", "80", "200"):
        code, text, _ = served.start("deliberation", "list", COLUMNS=columns).finished()
        assert (code, id in text) == (0, True)


def test_a_list_goes_on_over_pages_up_to_its_limit(served: Served) -> None:
    for n in range(205):
        served.store.dead_letters.add("planning.plan.approved", f"reason {n}", f"payload {n}")
    assert len(served.json("deadletter", "list", "--limit", "204")["items"]) == 204
    assert len(served.json("deadletter", "list", "--limit", "1000")["items"]) == 205
    assert "there are more" in served.cli("deadletter", "list").stderr
    assert "there are more" not in served.cli("deadletter", "list", "--limit", "205").stderr


def test_a_deliberation_is_cancelled_once(served: Served) -> None:
    id = served.pending()
    assert served.cli("deliberation", "cancel", id).stdout == f"{id} is CANCELLED\n"
    again = served.cli("deliberation", "cancel", id)
    assert again.exit_code == 1
    assert "CANCELLED; `fleet deliberation show ID`" in again.stderr


def test_a_deliberation_is_repeated_once_it_is_final(served: Served) -> None:
    id = served.pending()
    assert served.cli("deliberation", "replay", id).exit_code == 1
    served.finish(id)
    again = served.json("deliberation", "replay", id)
    assert again["replay_of"] == id
    assert f"repeats {id}" in served.cli("deliberation", "show", again["deliberation_id"]).stdout


def test_councils_are_deleted_and_created_and_their_agents_changed(served: Served) -> None:
    assert served.cli("council", "delete", "DATA").stdout == "the council DATA is deleted\n"
    made = served.json("council", "create", "data", "--agents", "2", "--rounds", "2", "--model", "m")
    assert (made["num_agents"], made["deliberation_rounds"], made["model"]) == (2, 2, "m")
    assert served.json("council", "create", "DATA", "--agents", "2", "--rounds", "2", "--model", "m") == made
    assert served.cli("council", "create", "DATA", "--agents", "3").exit_code == 1
    assert len(served.json("council", "add-agent", "DATA", "guest:1")["agents"]) == 3
    assert "guest:1" in served.cli("council", "show", "DATA").stdout
    assert served.json("council", "remove-agent", "DATA", "guest:1")["removed"] is True
    assert [len(one["agents"]) for one in served.json("council", "list")["items"] if one["role"] == "DATA"] == [2]


def test_a_dead_letter_is_shown_replayed_and_discarded(served: Served) -> None:
    letters = served.store.dead_letters
    bad = letters.add("planning.plan.approved", "no JSON", "{").dead_letter_id
    good = letters.add("planning.plan.approved", "too early", json.dumps({**PLAN, "approved_by": "po", "timestamp":
                       "2026-11-21T10:00:00Z"})).dead_letter_id  # fmt: skip
    assert "Why: no JSON" in served.cli("deadletter", "show", bad).stdout
    assert served.json("deadletter", "show", good)["reason"] == "too early"
    assert served.cli("deadletter", "replay", good).stdout == "plan p-1 is accepted: `fleet plan show p-1` shows it\n"
    assert served.cli("deadletter", "replay", bad).exit_code == 2
    assert served.json("deadletter", "discard", bad) == {"dead_letter_id": bad, "discarded": True}
    assert served.json("deadletter", "list")["items"] == []


def test_a_key_is_made_used_and_revoked(served: Served) -> None:
    made = served.cli("keys", "create", "ci", "--scope", "read")
    key = made.stdout.strip()
    [listed] = served.json("keys", "list")["items"]
    assert key not in json.dumps(listed)
    assert served.cli("council", "list", FLEET_API_KEY=key).exit_code == 0
    refused = served.cli("council", "delete", "DEV", FLEET_API_KEY=key)
    assert refused.exit_code == 1
    assert "fleet keys create" in refused.stderr
    assert served.cli("keys", "revoke", listed["key_id"]).exit_code == 0
    assert "set FLEET_API_KEY" in served.cli("council", "list", FLEET_API_KEY=key).stderr


def test_workers_queues_jobs_and_figures_are_shown(served: Served) -> None:
    now = served.store.workers.now_ms()
    job = Job(job_id="j", name="fleet.agent.answer", queue="agents", agent_id="agent-dev-001", started_at_ms=now)
    worker = {"worker": "agents@vm", "host": "vm", "pid": 1, "pool": "threads", "slots": 8, "queues": ["agents"]}
    served.store.workers.report(WorkerState(**worker, jobs=[job], memory_mb=100.0, at_ms=now))
    served.pending()
    assert served.json("jobs")["items"][0]["agent_id"] == "agent-dev-001"
    assert "agent-dev-001" in served.cli("jobs").stdout
    assert "agents@vm" in served.cli("cluster").stdout
    assert {one["queue"] for one in served.json("queues")["items"]} == {"agents", "council"}
    assert "council" in served.cli("queues").stdout
    assert served.json("stats")["totals"]["accepted"] == 1
    assert "last 10 minutes" in served.cli("stats").stdout
    assert served.json("cluster")["nodes"] == 1


def test_the_events_are_one_document_and_a_line_each_for_people(served: Served) -> None:
    id = served.pending()
    served.finish(id)
    events = served.json("events")["items"]
    assert events[-1]["subject"] == "orchestration.deliberation.failed"
    assert served.json("events", "--after", events[-2]["id"])["items"] == events[-1:]
    assert served.cli("events").stdout.splitlines()[-1].endswith("deliberation FAILED")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(served: Served, shell: str) -> None:
    done = served.cli("completion", shell)
    assert "_FLEET_COMPLETE" in done.stdout
    assert "to install it" in done.stderr
    assert served.json("completion", shell)["script"] + "\n" == done.stdout


def test_bash_completes_the_verbs(served: Served) -> None:
    env = {"COMP_WORDS": "fleet deliberation ca", "COMP_CWORD": "2", "_FLEET_COMPLETE": "bash_complete"}
    done = subprocess.run([script("fleet")], env={**os.environ, **env}, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,cancel\n"
    completion = served.cli("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=completion, text=True, check=True)
