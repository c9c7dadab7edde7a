import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.stack import neo4j_jars, ports, processes
from fleet.stack.errors import AlreadyRunning, EngineRefused, FetchFailed, PortTaken, StartFailed
from fleet.stack.processes import Fleet
from fleet.stack.secret_file import secret, write_private

CONTENT = b"a jar"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A Maven repository in which every jar has the same content; gives the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404 if "missing" in self.path else 200)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    monkeypatch.setattr(neo4j_jars, "MAVEN_CENTRAL_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(neo4j_jars, "LOCK", tmp_path / "neo4j.lock")
    monkeypatch.setenv("FLEET_CACHE_DIR", str(tmp_path / "cache"))
    yield asked
    server.shutdown()
    server.server_close()


def lock(*lines: str) -> None:
    neo4j_jars.LOCK.write_text("\n".join(("# a comment", *lines)))


def test_jars_are_fetched_once_and_kept_by_name(repository: list[str]) -> None:
    lock(f"org.example:one:1.0: {SHA256}", f"org.example.sub:two:2.0:linux {SHA256}")
    assert not neo4j_jars.is_fetched()
    folder = neo4j_jars.fetch()
    assert sorted(path.name for path in folder.iterdir()) == ["one-1.0.jar", "two-2.0-linux.jar"]
    assert sorted(repository) == ["/org/example/one/1.0/one-1.0.jar", "/org/example/sub/two/2.0/two-2.0-linux.jar"]
    assert neo4j_jars.fetch() == folder
    assert len(repository) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"org.example:one:1.0: {'0' * 64}", r"one-1\.0\.jar is not the file that neo4j\.lock names"),
        (f"org.example:missing:1.0: {SHA256}", r"missing-1\.0\.jar: 404"),
    ],
)
def test_a_jar_that_is_wrong_or_missing_leaves_nothing_fetched(repository: list[str], line: str, reason: str) -> None:
    lock(f"org.example:good:1.0: {SHA256}", line)
    with pytest.raises(FetchFailed, match=reason):
        neo4j_jars.fetch()
    assert repository
    assert not neo4j_jars.is_fetched()


def test_many_fetching_at_once_fetch_once(repository: list[str]) -> None:
    lock(f"org.example:one:1.0: {SHA256}")
    threads = [threading.Thread(target=neo4j_jars.fetch) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(repository) == 1


def test_the_lock_file_names_neo4j_itself_and_a_checksum_for_every_jar() -> None:
    jars = neo4j_jars.read_lock()
    assert any(jar.artifact == "neo4j" for jar in jars)
    assert all(len(jar.sha256) == 64 for jar in jars)
    assert len({jar.file_name for jar in jars}) == len(jars)


def test_a_free_port_is_none_that_the_system_gives_to_outgoing_connections() -> None:
    ephemeral = int(ports.EPHEMERAL_RANGE.read_text().split()[0]) if ports.EPHEMERAL_RANGE.exists() else 32_768
    found = {ports.free_port() for _ in range(50)}
    assert all(ports.LOWEST <= port < max(ephemeral, ports.LOWEST + 1000) for port in found)
    assert len(found) > 10


def test_a_secret_is_made_once_long_and_private(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "password"
    first = secret(path)
    assert secret(path) == first
    assert len(first) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret(tmp_path / "other") != first


def test_a_private_file_is_replaced_as_a_whole_whatever_its_mode_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_an_engine_that_there_is_not_is_refused() -> None:
    with pytest.raises(EngineRefused, match="no engine 'gpt': use one of local"):
        processes.check_engine("gpt")


def test_the_api_key_reaches_the_api_and_no_other_process(tmp_path: Path) -> None:
    fleet = processes.Fleet(tmp_path, "scripted", None)
    fleet.connect()
    holders = [process.name for process, _ in fleet.staged() if fleet.api_key in process.env.values()]
    assert holders == ["api"]
    assert fleet.listener.env["FLEET_NATS_URL"] == fleet.nats.url


def test_a_fleet_has_two_councils_so_that_one_sweeper_survives_the_other(tmp_path: Path) -> None:
    names = [process.name for process, _ in processes.Fleet(tmp_path, "scripted", None).staged()]
    assert names == [
        *("valkey", "nats", "neo4j", "listener"),
        *("worker-agents", "worker-council-1", "worker-council-2", "api", "flower"),
    ]


def test_errors_say_what_to_look_at() -> None:
    assert str(PortTaken("api", 80)) == "api: port 80 of 127.0.0.1 is taken"
    assert str(AlreadyRunning(Path("x"), 7)) == "a fleet is running in x already (pid 7)"
    assert str(StartFailed("api", "ended", Path("x/api.log"), "boom")) == "api ended; end of x/api.log:\nboom"


def test_processes_of_a_fleet_do_not_hear_the_originals_names_of_what_they_are_told(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "scripted", None)
    fleet.connect()
    for process in (fleet.listener, fleet.api, *fleet.workers):
        assert process.env["FLEET_NATS_URL"] == fleet.nats.url
        assert {process.env[name] for name in ("NATS_URL", "VALKEY_URL", "NEO4J_URI", "AGENT_TYPE")} == {None}
        assert "LOG_LEVEL" not in process.env
