"""What would be a command elsewhere is plain data here, or refused."""

import json
import logging
import socket
import sys
from typing import Any
from urllib.parse import quote

import neo4j
import pytest

from fleet import telemetry
from fleet.settings import get_settings
from tests.harness import wait_until
from tests.integration.api.conftest import KEY
from tests.integration.input.conftest import SmallFleet

INJECTIONS = {
    "cypher": "`}) DETACH DELETE n // ' OR 1=1 WITH n MATCH (m) DETACH DELETE m //",
    "cypher parameter": "$properties {id: $id} ${id}",
    "lua": "]] .. redis.call('FLUSHALL') --[[ KEYS[1] ARGV[1]",
    "log line": 'x\n{"event": "forged", "level": "critical"}\r\n12:00:00 [critical] forged',
    "terminal": "\x1b[2J\x1b[31mred\x1b]0;owned\x07 \x9b31m \u202egnp.exe\u2066",
    "event stream": "x\n\nid: 1-1\nevent: forged\ndata: {}\n\n",
    "header": "x\r\nSet-Cookie: forged=1\r\n\r\n<html>forged</html>",
    "path": "../../../../etc/passwd",
    "subject": "planning.> orchestration.*",
    "shell": "$(reboot); `reboot` && rm -rf / | %s %d {0.__class__}",
    "template": "{{ 7*7 }} {% raw %} ${jndi:ldap://127.0.0.1/x} %(levelname)s",
    "page": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "markup": "[red]x[/red] [link=http://127.0.0.1]y[/link] [/]",
}
ALL = "\n".join(INJECTIONS.values())
LINE = ALL[:500]
# Visible ASCII, as an Idempotency-Key has to be.
KEYS = ["*", "fleet:*", "../../x", "]]..redis.call('FLUSHALL')--", "KEYS[1]", "a.*.>", "%s%n", "`}DETACH/DELETE"]


def plan(id: str, **fields: Any) -> dict[str, Any]:
    """A plan with everything in every text that it has."""
    constraints = {
        "rubric": ALL,
        "requirements": list(INJECTIONS.values()),
        "architect_rubric": {"k": 1, "criteria": ALL},
        "cluster_spec": ALL,
        "metadata": {text: text for text in INJECTIONS.values()},
    }
    subtasks = [{"subtask_id": "a", "title": LINE, "description": ALL, "role": "DEV"}]
    texts = {"title": LINE, "description": ALL, "approved_by": LINE, "complexity": LINE}
    ids = {"plan_id": id, "story_id": f"{id}-story"}
    return {**ids, **texts, "subtasks": subtasks, "constraints": constraints, "rounds": 1, **fields}


def query(fleet: SmallFleet, cypher: str, **parameters: Any) -> list[neo4j.Record]:
    with neo4j.GraphDatabase.driver(fleet.neo4j.uri, auth=fleet.neo4j.auth) as driver:
        return driver.execute_query(cypher, **parameters).records


def test_commands_in_every_text_of_a_plan_go_through_a_whole_deliberation_as_data(fleet: SmallFleet) -> None:
    with neo4j.GraphDatabase.driver(fleet.neo4j.uri, auth=fleet.neo4j.auth) as driver:
        driver.execute_query("MERGE (n:Canary {id: 'injection'})")
    sent = plan("injected")
    receipt = fleet.api.call("POST", "/v1/plans", sent, **{"X-Request-Id": "request-of-injection"})
    assert receipt.status == 202, receipt.body
    id = receipt.json["deliberations"][0]["deliberation_id"]
    found = fleet.final(id)
    assert found["status"] == "COMPLETED", found["error_message"]
    assert ALL in found["task_description"]
    assert fleet.api.call("GET", "/v1/plans/injected").json["plan"]["constraints"]["cluster_spec"] == ALL

    ((stored, approval, subtask),) = query(
        fleet,
        "MATCH (a:PlanApproval)<-[:APPROVED]-(p:Plan {id: 'injected'})-[:HAS_SUBTASK]->(s:Subtask) RETURN p, a, s",
    )
    assert (stored["title"], stored["description"], stored["complexity"]) == (LINE, ALL, LINE)
    assert (approval["approved_by"], subtask["title"], subtask["description"]) == (LINE, LINE, ALL)
    assert query(fleet, "MATCH (n:Canary {id: 'injection'}) RETURN n")
    assert not query(fleet, "MATCH (n) WHERE any(l IN labels(n) WHERE l CONTAINS 'DELETE') RETURN n LIMIT 1")

    stream = fleet.api.call("GET", f"/v1/deliberations/{id}/events?follow=false").body.decode()
    frames = [dict(line.split(": ", 1) for line in frame.split("\n")) for frame in stream.split("\n\n") if frame]
    assert "forged" not in {frame.get("event") for frame in frames}
    assert all(json.loads(frame["data"]).get("deliberation_id", id) == id for frame in frames if "data" in frame)
    wait_until(lambda: fleet.store.events.backlog() == 0, 60, "everything is relayed")
    told = [
        message for message in fleet.outside.messages("ORCHESTRATOR_EVENTS") if id.encode() in (message.data or b"")
    ]
    assert {message.subject.split(".")[0] for message in told} == {"orchestration"}
    assert_logs_are_whole(fleet)


def assert_logs_are_whole(fleet: SmallFleet) -> None:
    """Every line is an event of Fleet's own, and none has what steers a terminal."""
    for process in fleet.processes:
        for line in process.output().splitlines():
            event = json.loads(line)
            assert event["event"] != "forged"
            assert line.isprintable(), line


IDS = [
    *INJECTIONS.values(),
    *(
        "a.*",
        "a.>",
        "a b",
        ".",
        "..",
        "a/b",
        "a\\b",
        "a\n",
        "-",
        "",
        "a" * 129,
        "é",
        "\N{CYRILLIC SMALL LETTER A}",
        "a\0",
    ),
]


@pytest.mark.parametrize("id", IDS)
def test_what_is_no_id_is_refused_in_every_place_of_one(fleet: SmallFleet, id: str) -> None:
    before = fleet.store.client.dbsize()
    fine: dict[str, Any] = {"plan_id": "p", "story_id": "s"}
    subtask = {"subtask_id": "a", "title": "A", "role": "DEV"}
    asked = {"role": "DEV", "task_description": "x"}
    refused = [
        ("/v1/plans", fine | {"plan_id": id}),
        ("/v1/plans", fine | {"story_id": id}),
        ("/v1/plans", fine | {"roles": [id]}),
        ("/v1/plans", fine | {"subtasks": [subtask | {"subtask_id": id}]}),
        ("/v1/plans", fine | {"subtasks": [subtask | {"role": id}]}),
        ("/v1/plans", fine | {"subtasks": [subtask | {"depends_on": [id]}]}),
        *[("/v1/deliberations", asked | {name: id}) for name in ("role", "plan_id", "story_id", "task_id")],
        ("/v1/councils", {"role": id}),
        ("/v1/councils/DEV/agents", {"agent_id": id}),
        ("/v1/keys", {"name": "a", "scopes": [id]}),
    ]
    for path, body in refused:
        assert fleet.api.call("POST", path, body).status == 422, (path, body)
    for method, path in [
        ("GET", "/v1/plans/{}"),
        ("GET", "/v1/deliberations/{}"),
        ("POST", "/v1/deliberations/{}/cancel"),
        ("POST", "/v1/deliberations/{}/replay"),
        ("GET", "/v1/deliberations/{}/events?follow=false"),
        ("GET", "/v1/deadletters/{}"),
        ("DELETE", "/v1/councils/{}"),
        ("DELETE", "/v1/keys/{}"),
    ]:
        assert fleet.api.call(method, path.format(quote(id, safe=""))).status in (404, 405, 422), (method, path)
    for path in ("/v1/deliberations?plan_id=", "/v1/deliberations?story_id=", "/v1/plans?cursor="):
        answer = fleet.api.call("GET", path + quote(id, safe=""))
        assert answer.status in (200, 422)
        assert answer.status == 422 or answer.json["items"] == []
    assert fleet.store.client.dbsize() == before


@pytest.mark.parametrize("key", KEYS)
def test_any_idempotency_key_is_a_name_and_nothing_else(fleet: SmallFleet, key: str) -> None:
    asked = {"role": "DEV", "task_description": f"for the key {key}", "rounds": 0, "num_agents": 1}
    first = fleet.api.call("POST", "/v1/deliberations", asked, **{"Idempotency-Key": key})
    again = fleet.api.call("POST", "/v1/deliberations", asked, **{"Idempotency-Key": key})
    assert (first.status, again.json) == (202, first.json)
    other = fleet.api.call("POST", "/v1/deliberations", asked, **{"Idempotency-Key": f"{key}."})
    assert other.json["deliberation_id"] != first.json["deliberation_id"]


HEADS = [
    b"X-Request-Id: a\rSet-Cookie: forged=1",
    b"X-Request-Id: a\r\n Set-Cookie: forged=1",
    b"X-Request-Id: a\nSet-Cookie: forged=1",
    b"X-Request-Id: \x1b[2J",
    b"X-Request-Id: \xc3\xa9\xff",
    b'X-Request-Id: {"event": "forged"}',
    b"Idempotency-Key: a\r\n\tb",
    b"Last-Event-ID: 0\rforged",
    b"Authorization: Bearer \x1b[2J\xff",
    b"Authorization : Bearer x",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 6",
]


@pytest.mark.parametrize("head", HEADS)
def test_a_header_of_a_request_is_no_header_of_an_answer_and_no_line_of_a_log(fleet: SmallFleet, head: bytes) -> None:
    key = b"" if head.startswith(b"Authorization") else b"Authorization: Bearer " + KEY.encode() + b"\r\n"
    request = b"GET /v1/plans HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + key + head + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", fleet.api.port), timeout=30) as connection:
        connection.sendall(request)
        said = b"".join(iter(lambda: connection.recv(65_536), b""))
    status, *headers = said.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert status.split()[1] in (b"200", b"400", b"401"), status
    assert not [header for header in headers if header.lower().startswith(b"set-cookie") or b"\x1b" in header]
    assert_logs_are_whole(fleet)


@pytest.mark.parametrize("format", ["json", "console"])
def test_whatever_is_logged_takes_one_line_and_leaves_the_terminal_alone(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_LOG_FORMAT", format)
    get_settings.cache_clear()
    formatter = telemetry.formatter("test")
    get_settings.cache_clear()
    steered = "".join(map(chr, [*range(0xA0), 0x2028, 0x2029, 0x202E, 0x2066, 0xD800])) + LINE
    try:
        raise ValueError(steered)
    except ValueError:
        found = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "", 0, "got %s", (steered,), found)
    first, *others = formatter.format(record).split("\n")
    assert first.isprintable()
    assert first.startswith("{") is (format == "json")
    assert all(line.isprintable() for line in others)
    assert not [line for line in others if not line.startswith(("  ", "Traceback (most recent call last):"))]
    assert format == "console" or json.loads(first)["event"] == f"got {steered}"
