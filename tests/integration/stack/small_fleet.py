"""A fleet whose processes are small ones: `python -m tests.integration.stack.small_fleet FOLDER PORT [deaf]`.

The servers but Neo4j are the real ones, and so is everything that starts, watches and stops them.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from fleet.stack import one_machine
from fleet.stack.errors import StackError
from fleet.stack.process import Process
from fleet.stack.processes import Api, Fleet
from fleet.stack.supervisor import Stage

API = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# Has a child, and work that takes half a second to end once asked to; then it writes down which ports are open.
WORKER = """
import json, os, pathlib, signal, socket, subprocess, sys, time
def is_open(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", int(port))) == 0
def finish(*_):
    time.sleep(0.5)
    ports = json.loads(os.environ["PORTS"])
    pathlib.Path(sys.argv[1]).write_text(json.dumps({name: is_open(port) for name, port in ports.items()}))
    sys.exit()
signal.signal(signal.SIGTERM, finish)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
while True:
    time.sleep(0.05)
"""
BRIDGE = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class SmallApi(Api):
    def configure(self) -> None:
        self.command = [sys.executable, "-c", API, str(self.port)]


class SmallFleet(Fleet):
    def __init__(self, folder: Path, port: int | None, deaf: bool):
        super().__init__(folder, "scripted", port)
        self.api = SmallApi(self.logs / "api.log", port)
        self.worker = Process([sys.executable, "-c", WORKER, str(folder / "drained")], self.logs / "worker.log")
        self.bridge = Process([sys.executable, "-c", DEAF if deaf else BRIDGE], self.logs / "bridge.log")

    def connect(self) -> None:
        super().connect()
        ports = {server.name: server.port for server in (self.valkey, self.nats, self.api)}
        self.worker.env["PORTS"] = json.dumps(ports)

    def staged(self) -> Iterator[tuple[Process, Stage]]:
        yield self.valkey, Stage.SERVER
        yield self.nats, Stage.SERVER
        yield self.worker, Stage.WORKER
        yield self.bridge, Stage.BRIDGE
        yield self.api, Stage.FRONT


def main(folder: str, port: str, *options: str) -> int:
    try:
        with one_machine.only_one(Path(folder)):
            fleet = SmallFleet(Path(folder), int(port) or None, "deaf" in options)
            one_machine.serve(fleet, lambda line: print(line, flush=True))
    except StackError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
