"""A task that kills its process again and again: a real worker is really killed, and Fleet stops trying."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from fleet.cli import main
from fleet.stack.celery_worker import CeleryWorker
from tests.harness import Neo4jServer, ValkeyServer, wait_until
from tests.integration.api.conftest import KEY, Gunicorn
from tests.integration.operations.words import ANSWERING, DECIDING, RECORDING

APP = "tests.integration.operations.killing"
DEATHS = 3
pytestmark = pytest.mark.timeout(600)  # the first test also waits for three deliberations, one after another


@dataclass
class Killed:
    """A fleet whose processes died of three deliberations, each with the dead letter that came of it."""

    http: httpx2.Client
    url: str
    ids: dict[str, str]
    letters: dict[str, dict[str, Any]]

    def deliberation(self, word: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/deliberations/{self.ids[word]}").json()
        return found


def keep_alive(worker: CeleryWorker, stop: threading.Event) -> None:
    """Starts a worker again whenever it died, as a supervisor does."""
    while not stop.wait(0.1):
        if not worker.alive:
            worker.spawn()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, neo4j_server: Neo4jServer) -> Iterator[Killed]:
    folder = tmp_path_factory.mktemp("killed")
    valkey = ValkeyServer(folder / "valkey")
    env = {
        "FLEET_NEO4J_URI": neo4j_server.uri,
        "FLEET_NEO4J_USER": neo4j_server.user,
        "FLEET_NEO4J_PASSWORD": neo4j_server.password,
        "FLEET_NATS_ENABLED": "false",
        "FLEET_ENGINE": "scripted",
        "FLEET_AGENTS_PER_COUNCIL": "1",
    }
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(valkey.stop)
        valkey.start()
        env["FLEET_VALKEY_URL"] = valkey.url
        # In one the pool's child dies and the worker lives, in the other the whole worker.
        council = CeleryWorker("council", APP, ["-Q", "council", "-P", "prefork", "-c", "3"], folder / "c.log", env)
        agents = CeleryWorker("agents", APP, ["-Q", "agents", "-P", "threads", "-c", "8"], folder / "a.log", env)
        api = Gunicorn(folder, valkey, **env)
        for process in (council, agents, api):
            stack.callback(process.kill)
            process.start()
        keeper = threading.Thread(target=keep_alive, args=(agents, stop))
        keeper.start()
        stack.callback(keeper.join)
        stack.callback(stop.set)
        url = f"http://127.0.0.1:{api.port}"
        http = httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=70)
        stack.callback(http.close)
        ids = {word: submit(http, word) for word in (DECIDING, RECORDING, ANSWERING)}
        for id in ids.values():
            wait_until(lambda id=id: is_final(http, id), 120, f"{id} is final, logs in {folder}")  # type: ignore[misc]
        letters = {word: letter for letter in http.get("/v1/deadletters").json()["items"]
                   for word in ids if word in letter["payload"]}  # fmt: skip
        yield Killed(http, url, ids, letters)


def submit(http: httpx2.Client, description: str) -> str:
    answer = http.post("/v1/deliberations", json={"task_description": description, "role": "DEV", "rounds": 0})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["deliberation_id"])


def is_final(http: httpx2.Client, id: str) -> bool:
    return http.get(f"/v1/deliberations/{id}").json()["status"] not in ("PENDING", "IN_PROGRESS")


@pytest.mark.parametrize("word", [DECIDING, RECORDING, ANSWERING])
def test_a_task_that_kills_its_process_three_times_ends_as_a_dead_letter_with_its_history(
    killed: Killed, word: str
) -> None:
    assert killed.deliberation(word)["status"] == "FAILED"
    letter = killed.http.get(f"/v1/deadletters/{killed.letters[word]['dead_letter_id']}").json()
    assert letter["attempts"] == DEATHS
    assert [death["attempt"] for death in letter["history"]] == [1, 2, 3]
    assert len({death["pid"] for death in letter["history"]}) == DEATHS
    workers = {death["worker"].partition("@")[0] for death in letter["history"]}
    assert workers == ({"agents"} if word == ANSWERING else {"council"})
    times = [death["at_ms"] for death in letter["history"]]
    assert times == sorted(set(times))


def test_people_see_when_and_where_it_died(killed: Killed) -> None:
    id = killed.letters[DECIDING]["dead_letter_id"]
    env = {"FLEET_URL": killed.url, "FLEET_API_KEY": KEY}
    shown = CliRunner().invoke(main, ["deadletter", "show", id], env=env).output
    pids = [str(death["pid"]) for death in killed.letters[DECIDING]["history"]]
    assert all(f"process {pid}" in shown for pid in pids)
    assert "Death 3: council@" in shown


def test_a_deliberation_says_why_it_failed(killed: Killed) -> None:
    assert "died 3 times" in killed.deliberation(DECIDING)["error_message"]
    assert killed.letters[ANSWERING]["dead_letter_id"] in str(
        killed.http.get(f"/v1/deliberations/{killed.ids[ANSWERING]}").json()
    )


def test_a_decision_that_could_not_be_recorded_is_written_by_a_replay(killed: Killed) -> None:
    letter = killed.letters[RECORDING]
    answer = killed.http.post(f"/v1/deadletters/{letter['dead_letter_id']}/replay")
    assert answer.status_code == 202, answer.text
    assert answer.json()["id"] == killed.ids[RECORDING]


@pytest.mark.parametrize("word", [DECIDING, ANSWERING])
def test_a_replay_asks_once_more_as_a_new_deliberation(killed: Killed, word: str) -> None:
    letter = killed.letters[word]
    answer = killed.http.post(f"/v1/deadletters/{letter['dead_letter_id']}/replay")
    assert answer.status_code == 202, answer.text
    again = killed.http.get(answer.json()["location"]).json()
    assert again["replay_of"] == killed.ids[word]
    killed.http.post(f"{answer.json()['location']}/cancel")
