"""What the processes of a fleet log: one JSON object a line, followed by ids, and without secrets."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fleet.events import PLAN_APPROVED
from fleet.stack.processes import CeleryWorker, Flower
from tests.harness import NatsServer, Neo4jServer, Process, ValkeyServer, free_port, wait_until
from tests.integration.api.conftest import Gunicorn
from tests.integration.bus.harness import PLANS, Outside, plan_event

PASSWORD = "hunter2-and-more"
FINAL = ("COMPLETED", "PARTIAL", "FAILED")
Events = list[dict[str, Any]]


def events(process: Process) -> Events:
    """Everything the process has logged; fails where a line is no JSON object."""
    lines = process.output().rpartition("\n")[0].splitlines()
    found = [json.loads(line) for line in lines]
    assert all({"event", "level", "timestamp", "process", "pid"} <= event.keys() for event in found)
    return found


def about(process: Process, id: str) -> Events:
    """What `grep ID` finds."""
    return [event for event in events(process) if id in json.dumps(event)]


def names(found: Events) -> set[str]:
    return {event["event"] for event in found}


@pytest.fixture
def start() -> Iterator[Callable[[Process], None]]:
    with ExitStack() as stack:

        def run(process: Process) -> None:
            stack.callback(process.stop)
            process.start()

        yield run


def worker(folder: Path, queue: str, env: dict[str, str], pool: str = "threads") -> CeleryWorker:
    return CeleryWorker(queue, "fleet", ["-Q", queue, "-P", pool, "-c", "2"], folder / f"{queue}.log", env)


def listener(folder: Path, env: dict[str, str]) -> Process:
    return Process([sys.executable, "-m", "fleet.cli", "listener"], folder / "listener.log", env)


@pytest.fixture
def env(valkey_server: ValkeyServer, nats_server: NatsServer, neo4j_server: Neo4jServer) -> dict[str, str]:
    user, password = neo4j_server.auth
    return {
        "FLEET_VALKEY_URL": valkey_server.url,
        "FLEET_NATS_URL": nats_server.url,
        "FLEET_NEO4J_URI": neo4j_server.uri,
        "FLEET_NEO4J_USER": user,
        "FLEET_NEO4J_PASSWORD": password,
        "FLEET_ENGINE": "scripted",
        "FLEET_SCRIPTED_BEHAVIOURS": "*=error-prone",
    }


def failed(api: Gunicorn) -> tuple[str, str]:
    """The id of a deliberation that failed, and of its request: error-prone agents fail one in two."""
    for number in range(20):
        body = {"role": "DEV", "task_description": f"Write function {number}", "num_agents": 1, "rounds": 0}
        request_id = f"request-{number}"
        id = api.call("POST", "/v1/deliberations", body, **{"X-Request-Id": request_id}).json["deliberation_id"]
        found = wait_until(lambda id=id: final(api, id), timeout_s=60, what="the deliberation is final")
        if found["status"] == "FAILED":
            return id, request_id
    raise AssertionError("none of twenty failed")


def final(api: Gunicorn, id: str) -> dict[str, Any] | None:
    found: dict[str, Any] = api.call("GET", f"/v1/deliberations/{id}?wait=10").json
    return found if found["status"] in FINAL else None


def test_a_failed_deliberation_is_followed_from_its_id_through_every_process(
    valkey_server: ValkeyServer, env: dict[str, str], tmp_path: Path, start: Callable[[Process], None]
) -> None:
    api = Gunicorn(tmp_path, valkey_server, **env)
    agents, council = worker(tmp_path, "agents", env, "prefork"), worker(tmp_path, "council", env)
    for process in (api, agents, council):
        start(process)
    wait_until(api.ready)
    id, request_id = failed(api)

    (posted, *_) = about(api, id)
    assert (posted["event"], posted["process"], posted["request_id"]) == ("api.request", "api", request_id)
    task_id = posted["deliberation_id"]
    asked = [event for event in about(agents, id) if event["event"] == "part.answered"]
    assert [(one["process"], one["request_id"], one["task_id"]) for one in asked] == [("worker", request_id, task_id)]
    assert "error-prone agent fails" in asked[0]["failure"]
    closed = about(council, id)
    assert {"deliberation.decided", "deliberation.finished"} <= names(closed)
    ours = [event for event in closed if event["event"].startswith("deliberation.")]
    assert {(one["deliberation_id"], one["request_id"], one["process"]) for one in ours} == {(id, request_id, "worker")}


def test_a_plan_that_came_by_http_is_found_by_the_ids_of_its_deliberations(
    valkey_server: ValkeyServer, tmp_path: Path, start: Callable[[Process], None]
) -> None:
    api = Gunicorn(tmp_path, valkey_server)
    start(api)
    wait_until(api.ready)
    receipt = api.call("POST", "/v1/plans", json.loads(plan_event("plan-by-http", roles=["DEV", "QA"]))).json
    ids = [one["deliberation_id"] for one in receipt["deliberations"]]
    (posted,) = about(api, ids[0])
    assert (posted["deliberation_ids"], posted["plan_id"], posted["status"]) == (ids, "plan-by-http", 202)
    api.call("GET", "/v1/plans/plan-by-http")
    assert [one["method"] for one in about(api, "plan-by-http")] == ["POST", "GET"]


def test_celerys_and_gunicorns_own_records_are_events_too(
    valkey_server: ValkeyServer, env: dict[str, str], tmp_path: Path, start: Callable[[Process], None]
) -> None:
    api = Gunicorn(tmp_path, valkey_server, **env)
    both = CeleryWorker("both", "fleet", ["-Q", "agents,council", "-P", "threads"], tmp_path / "both.log", env)
    start(api)
    start(both)
    wait_until(api.ready)
    id, _ = failed(api)
    of_the_part = [event for event in about(both, id) if event.get("task") == "fleet.agent.answer"]
    assert [event["event"].split()[2] for event in of_the_part] == ["received", "succeeded"]
    assert {event["celery_task_id"] for event in of_the_part} == {f"{id}.propose:0.agent-dev-001"}
    started = [event for event in events(api) if event["event"].startswith("Starting gunicorn")]
    assert [(event["process"], event["logger"]) for event in started] == [("api", "gunicorn.error")]
    assert "[config]" not in both.output()  # Celery's banner


def test_a_plan_that_came_by_nats_is_followed_from_the_listener_on(
    env: dict[str, str], nats_server: NatsServer, tmp_path: Path, start: Callable[[Process], None]
) -> None:
    into, agents = listener(tmp_path, env), worker(tmp_path, "agents", env)
    start(into)
    start(agents)
    outside = Outside(nats_server)
    wait_until(lambda: outside.consumer(PLANS))
    outside.publish(PLAN_APPROVED, plan_event("plan-of-logs", story_id="story-of-logs"))
    (accepted,) = wait_until(lambda: [one for one in events(into) if one["event"] == "plan_accepted"])
    assert (accepted["process"], accepted["plan_id"]) == ("listener", "plan-of-logs")
    (id,) = accepted["deliberation_ids"]
    answered = wait_until(lambda: [one for one in about(agents, id) if one["event"] == "part.answered"])
    assert (answered[0]["plan_id"], answered[0]["story_id"]) == ("plan-of-logs", "story-of-logs")


def test_no_password_and_no_key_is_logged_while_every_server_is_away(
    valkey_server: ValkeyServer, tmp_path: Path, start: Callable[[Process], None]
) -> None:
    away = {
        "FLEET_VALKEY_URL": f"redis://user:{PASSWORD}@127.0.0.1:{free_port()}/0",
        "FLEET_NATS_URL": f"nats://{PASSWORD}@127.0.0.1:{free_port()}",
        "FLEET_NEO4J_URI": f"bolt://127.0.0.1:{free_port()}",
        "FLEET_NEO4J_PASSWORD": PASSWORD,
        "FLEET_API_KEY": PASSWORD,
        "FLEET_ENGINE_KEY": PASSWORD,
        "FLEET_LOG_LEVEL": "debug",
    }
    api = Gunicorn(tmp_path, valkey_server, **away)
    council, into = worker(tmp_path, "council", away), listener(tmp_path, away)
    flower = Flower("flowers", tmp_path / "flower.log", away)
    start(api)
    for process in (council, into, flower):
        process.spawn()
    try:
        wait_until(api.ready)
        assert api.call("GET", "/v1/plans", Authorization=f"Bearer {PASSWORD}").status == 503
        logged = {api: "api.unavailable", council: "Connection refused", into: "server_away", flower: "Visit me"}
        for process, text in logged.items():
            wait_until(lambda process=process, text=text: text in process.output(), timeout_s=60, what=text)
            assert PASSWORD not in process.output()
            assert {event["process"] for event in events(process)} == {EXPECTED[process.name]}
    finally:
        for process in (council, into, flower):
            process.kill()


EXPECTED = {"gunicorn": "api", "worker-council": "worker", "listener": "listener", "flower": "flower"}


CRASHES = """
import logging, threading, warnings
from fleet import telemetry
telemetry.configure("test")
warnings.warn("look\\nhere")
logging.getLogger("library").error("no %s", "FLEET_API_KEY is key-of-this-test")
thread = threading.Thread(target=lambda: 1 / 0, name="side")
thread.start()
thread.join()
raise ValueError("sent {'Authorization': 'Bearer abc'} to redis://:secret@h with key-of-this-test")
"""


def crash(folder: Path, **settings: str) -> Process:
    environment = {**settings, "FLEET_API_KEY": "key-of-this-test"}
    process = Process([sys.executable, "-c", CRASHES], folder / "crash.log", environment)
    process.spawn()
    assert process.popen is not None
    assert process.popen.wait(30) == 1
    process.kill()
    return process


def test_an_exception_that_nobody_caught_is_one_line(tmp_path: Path) -> None:
    process = crash(tmp_path)
    warning, library, side, main = events(process)
    assert "look\nhere" in warning["event"]
    assert (library["event"], library["logger"]) == ("no FLEET_API_KEY is ***", "library")
    assert (side["event"], side["thread"], "ZeroDivisionError" in side["exception"]) == ("crashed", "side", True)
    assert main["exception"].endswith("ValueError: sent {'Authorization': 'Bearer ***'} to redis://:***@h with ***")
    assert main["exception"].startswith("Traceback")


AGAIN = """
import os, sys, threading, structlog
from fleet import telemetry
from fleet.settings import get_settings
log = structlog.get_logger("again")
for process, format in (("cli", "json"), ("listener", "json"), ("listener", "console"), ("worker", "json")):
    os.environ["FLEET_LOG_FORMAT"] = format
    get_settings.cache_clear()
    telemetry.configure(process)
    log.info("used")
thread = threading.Thread(target=sys.exit, args=(3,))
thread.start()
thread.join()
log.info("ended")
"""


def test_a_logger_already_used_follows_what_is_configured_again(tmp_path: Path) -> None:
    first, second, third, fourth, last = lines_of(AGAIN, tmp_path)
    assert [json.loads(line)["process"] for line in (first, second, fourth)] == ["cli", "listener", "worker"]
    assert ("used" in third, "{" in third, "pid" in third) == (True, False, False)
    assert json.loads(last)["event"] == "ended"  # a thread that exits has not crashed


def lines_of(program: str, folder: Path) -> list[str]:
    process = Process([sys.executable, "-c", program], folder / "program.log", {})
    process.spawn()
    assert process.popen is not None
    assert process.popen.wait(30) == 0
    process.kill()
    return process.output().splitlines()


def test_people_get_lines_that_they_can_read(tmp_path: Path) -> None:
    said = crash(tmp_path, FLEET_LOG_FORMAT="console").output()
    assert '  File "<string>", line 10, in <module>\n' in said
    assert "[error    ] no FLEET_API_KEY is ***" in said
    assert "pid" not in said
    assert "key-of-this-test" not in said
    assert "\x1b" not in said  # no colours into a file
