"""The documentation's commands run: each page from top to bottom, as one shell session against a fleet.

What a fence's language means:

    sh          console commands, stopping at the first that fails
    python      a program, with the environment's Python
    cypher      a query to the fleet's Neo4j, which has to return something
    text        output, or what cannot be run; never run
    others      examples, which are run only when a comment says so

and a comment on the line before it:

    <!-- not run: REASON -->          only shown
    <!-- save as: NAME -->            written to a file, which later blocks use
    <!-- keeps running: PATTERN -->   one command that does not end: the next block begins once it wrote PATTERN
    <!-- after Ctrl-C -->             what keeps running is stopped first

Ids are no business of this test: pages catch them in variables, as `ID=$(fleet deliberation run …)`. The folder that a
page runs in looks like the repository's root. It has a fleet with scripted agents in .fleet, unless the page starts one
of its own. `fleet up` alone, which a reader runs with a small real model, runs with scripted agents here
(`_WRAPPER`), slowly enough to be watched and cancelled; `--engine openai` talks to a server of this test at the address
that the pages name, `ENGINE`. Pages about several machines find the servers of the fleet where they name their own.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fleet.engines.base import Generation, Message
from fleet.engines.config import EngineConfig
from fleet.engines.scripted import ScriptedEngine
from tests.acceptance.conftest import RunningFleet, start_fleet
from tests.harness import free_port
from tests.unit.engines.openai_server import completion, says, streams

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md")), *sorted((DOCS / "explanation").glob("*.md"))]
OWN_FLEET = ("tutorial.md", "own-engine.md")
OWN_SERVERS = ("several-machines.md",)
ENGINE = "127.0.0.1:8000"
LONGEST_S = 420
FENCE = re.compile(r"^((?:<!--[^\n]*-->\n)*)```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!-- (not run|save as|keeps running|after Ctrl-C)(?:: (.+?))? -->")

_WRAPPER = """#!/bin/sh
if [ "$*" = up ]; then set -- up --engine scripted; export FLEET_SCRIPTED_LATENCY_S=1; fi
exec {fleet} "$@"
"""
_HEAD = """set -eu -o pipefail
kept=()
stop() { for pid in ${kept[@]+"${kept[@]}"}; do kill -TERM "$pid" || true; wait "$pid" || true; done; kept=(); }
trap stop EXIT
await() {  # pattern, log, pid
    for _ in $(seq 1200); do
        grep -qE -- "$1" "$2" && return
        kill -0 "$3" || { cat "$2"; return 1; }
        sleep 0.2
    done
    cat "$2"; return 1
}
"""
_CYPHER = """
import json, sys, neo4j
found = json.load(open(".fleet/fleet.json"))
with neo4j.GraphDatabase.driver(found["neo4j_uri"], auth=(found["neo4j_user"], found["neo4j_password"])) as driver:
    for query in open(sys.argv[1]).read().split(";"):
        if query.strip():
            records = driver.execute_query(query).records
            print(*records[:5], sep="\\n")
            assert records, "the query returned nothing"
"""


@dataclass(frozen=True)
class Block:
    """A fenced block with the comments before it."""

    line: int
    language: str
    text: str
    comments: Mapping[str, str]

    @property
    def runs(self) -> bool:
        shown = "not run" in self.comments or "save as" in self.comments
        return not shown and self.language in ("sh", "python", "cypher")

    def script(self, place: Path) -> str:
        """What bash runs for this block."""
        name = f"block-{self.line}.{self.language}"
        head = "stop\n" if "after Ctrl-C" in self.comments else ""
        if "save as" in self.comments:
            (place / f"{name}.saved").write_text(self.text)
            return f"{head}cp {name}.saved {shlex.quote(self.comments['save as'])}\n"
        if pattern := self.comments.get("keeps running"):
            log = f"block-{self.line}.log"
            wait = f"kept+=($!)\nawait {shlex.quote(pattern)} {log} $!\n"
            return f"{head}(exec env {self.text}) > {log} 2>&1 &\n{wait}"
        if self.language == "sh":
            return head + self.text
        (place / name).write_text(self.text)
        return f"{head}python {'cypher.py ' if self.language == 'cypher' else ''}{name}\n"


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(text.count("\n", 0, found.start(2)) + 1, found[2], found[3], dict(COMMENT.findall(found[1])))
        for found in FENCE.finditer(text)
    ]


def readme_blocks() -> list[Block]:
    """The first commands of the README's own-fleet part, which are indented, and have ID for an id."""
    text = (ROOT / "README.md").read_text()
    start = text.index("## Your own fleet")
    found = re.search(r"(?:^    .*\n)+", text[start:], re.MULTILINE)
    assert found is not None
    lines = [line.partition("#")[0].strip() for line in found[0].splitlines()]
    commands = [line for line in lines if not line.startswith(("make ", "fleet up"))]  # which made what this runs in
    catch = 'ID=$(fleet deliberation run "Any task" --role DEV)'
    script = "\n".join([catch, *(re.sub(r"\bID\b", '"$ID"', command) for command in commands)])
    return [Block(text.count("\n", 0, start), "sh", script + "\n", {})]


class Answers(BaseHTTPRequestHandler):
    """A server with OpenAI's chat API that has no model: the scripted engine answers."""

    engine = ScriptedEngine(EngineConfig("scripted"))

    def do_GET(self) -> None:
        listed = [{"id": "scripted", "object": "model", "created": 0, "owned_by": "x"}]
        says({"object": "list", "data": listed})(self)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = tuple(Message(one["role"], one["content"]) for one in asked["messages"])
        schema = asked["response_format"]["json_schema"]["schema"]
        made = self.engine.generate(Generation(messages, schema, max_tokens=asked["max_tokens"]))
        streams(*completion(made.text, made.finish_reason))(self)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def engine_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """The fleet of all pages that start none."""
    made = start_fleet(tmp_path_factory.mktemp("docs") / ".fleet")
    yield made
    made.process.stop(60)


@pytest.mark.timeout(LONGEST_S + 120)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_commands_of_a_page_run(
    page: Path, tmp_path: Path, engine_server: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    found = blocks(page.read_text())
    fleet = None if page.name in OWN_FLEET else request.getfixturevalue("running")
    run(str(page.relative_to(ROOT)), found, place(tmp_path, fleet), environment(page, fleet), engine_server)
    with capsys.disabled():
        shown = [block for block in found if "not run" in block.comments]
        print(f"\n{page.relative_to(ROOT)}: {sum(block.runs for block in found)} blocks run, {len(shown)} not")
    assert any(block.runs for block in found), "a page without a command that runs"


@pytest.mark.timeout(LONGEST_S + 120)
def test_the_commands_of_the_readme_run(running: RunningFleet, tmp_path: Path, engine_server: str) -> None:
    run("README.md", readme_blocks(), place(tmp_path, running), environment(ROOT / "README.md", running), engine_server)


def test_what_the_readme_runs_on_several_machines_is_run_by_the_page_about_it() -> None:
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^    ((?:celery|gunicorn|fleet listener).*)$", text, re.MULTILINE)
    commands = [line.partition("  #")[0].strip() for line in lines]
    page = [block.text for block in blocks((DOCS / "how-to" / "several-machines.md").read_text()) if block.runs]
    assert len(commands) >= 5
    assert [command for command in commands if not any(command in text for text in page)] == []


def test_a_block_that_is_not_run_says_why() -> None:
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    not_run = [block for page in pages for block in blocks(page.read_text()) if "not run" in block.comments]
    assert all(len(block.comments["not run"]) > 10 for block in not_run)


def place(folder: Path, fleet: RunningFleet | None) -> Path:
    """A folder that looks like the repository's root, with the fleet in it."""
    for name in ("benchmarks", "celeryconfig.py", "examples", "fleet", "gunicorn.conf.py", "tests"):
        (folder / name).symlink_to(ROOT / name)
    if fleet:
        (folder / ".fleet").symlink_to(fleet.folder)
    (folder / "cypher.py").write_text(_CYPHER)
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "fleet"
    wrapper.write_text(_WRAPPER.format(fleet=Path(sys.executable).parent / "fleet"))
    wrapper.chmod(0o755)
    return folder


def environment(page: Path, fleet: RunningFleet | None) -> dict[str, str]:
    """What a page's shell begins with; on a page about several machines, the servers that it names."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
    found["COLUMNS"] = "120"
    if page.name in OWN_SERVERS and fleet:
        keys = {"FLEET_VALKEY_URL": "valkey_url", "FLEET_NATS_URL": "nats_url", "FLEET_NEO4J_URI": "neo4j_uri"}
        keys |= {"FLEET_NEO4J_USER": "neo4j_user", "FLEET_NEO4J_PASSWORD": "neo4j_password"}
        found |= {variable: fleet.details[key] for variable, key in keys.items()}
        found["FLOWER_PORT"] = str(free_port())
        found |= {"FLEET_ENGINE": "scripted", "FLEET_API_BIND": f"127.0.0.1:{free_port()}", "FLEET_API_KEY": "x" * 32}
    return found


def run(name: str, found: Sequence[Block], folder: Path, variables: Mapping[str, str], engine: str) -> None:
    """Runs a page's blocks in one shell; fails with the block that failed, and the end of its output."""
    parts = [f"echo '== {name}, line {block.line}'\n{block.script(folder)}" for block in found if scripted(block)]
    script = (_HEAD + "".join(parts)).replace(ENGINE, engine)
    (folder / "page.sh").write_text(script)
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{variables['PATH']}"
    with (folder / "page.log").open("w+") as log:
        shell = subprocess.Popen(
            ["bash", "page.sh"],
            cwd=folder,
            env={**variables, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            shell.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(60)
        log.seek(0)
        said = log.read()
    assert shell.returncode == 0, said[max(0, said.rfind("\n== ") - 2000) :][-8000:]


def scripted(block: Block) -> bool:
    return block.runs or "save as" in block.comments
