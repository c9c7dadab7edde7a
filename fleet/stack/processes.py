"""The processes of a one-machine fleet: what runs, with which command line and environment."""

import http.client
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import fleet
from fleet.settings import ORIGINALS, Settings, variables
from fleet.stack import vllm
from fleet.stack.celery_worker import CeleryWorker
from fleet.stack.errors import EngineRefused
from fleet.stack.process import Process, Server
from fleet.stack.scripts import script
from fleet.stack.secret_file import secret
from fleet.stack.servers import NatsServer, Neo4jServer, ValkeyServer
from fleet.stack.supervisor import Stage

ENGINES = ("local", "scripted", "openai", "vllm")
# name, queue and how many tasks at once. Two councils, because each runs a sweeper and one must survive the other.
WORKERS = (("agents", "agents", 8), ("council-1", "council", 4), ("council-2", "council", 4))
# A GPU worker needs ValKey and the model; what it does not know, it cannot give away.
NOT_FOR_GPU = [
    name for field in Settings.model_fields if re.match("nats|neo4j|api", field) for name in variables(field)
]
ROOT = Path(fleet.__file__).parents[1]


class GpuWorker(CeleryWorker):
    """A Celery worker with vLLM in it; its pool and width are its own configuration's."""

    ready_timeout_s = 600.0  # a large model's weights are read

    def __init__(self, log: Path):
        super().__init__("gpu", "workers.gpu", ["-Q", "gpu"], log, vllm.worker_environment())


class HttpServer(Server):
    """A server that is ready when it answers 200 to GET `path`."""

    ready_timeout_s = 120.0
    path = "/"

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", self.path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Api(HttpServer):
    """The HTTP API and the dashboard."""

    path = "/readyz"

    def configure(self) -> None:
        self.env["FLEET_API_BIND"] = f"127.0.0.1:{self.port}"
        config = str(ROOT / "gunicorn.conf.py")
        self.command = [sys.executable, "-m", "gunicorn", "-c", config, "fleet.api:create_app()"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Flower(HttpServer):
    """Flower, which without a password would show its pages to everybody on this machine."""

    path = "/healthcheck"

    def __init__(self, password: str, log: Path, env: Mapping[str, str | None]):
        self._login = f"fleet:{password}"
        super().__init__(log, name="flower", env={**env, "FLOWER_BASIC_AUTH": self._login})

    def configure(self) -> None:
        options = ["--address=127.0.0.1", f"--port={self.port}", "--purge_offline_workers=60", "--max_tasks=5000"]
        self.command = [sys.executable, "-m", "celery", "-A", "fleet", "flower", *options]

    @property
    def url(self) -> str:
        return f"http://{self._login}@127.0.0.1:{self.port}"


class Fleet:
    """All processes of a fleet with its data in `folder`; none is started here."""

    def __init__(self, folder: Path, engine: str, port: int | None):
        check_engine(engine)
        self.folder, self.engine = folder, engine
        self.logs, self.announced = folder / "logs", folder / "fleet.json"
        self.valkey = ValkeyServer(folder / "valkey", log=self._log("valkey"))
        self.nats = NatsServer(folder / "nats", log=self._log("nats"))
        self.neo4j = Neo4jServer(folder / "neo4j", log=self._log("neo4j"))
        self.api_key = secret(folder / "api_key")
        self.api = Api(self._log("api"), port, env={"FLEET_API_KEY": self.api_key})
        self.flower = Flower(secret(folder / "flower_password"), self._log("flower"), {})
        self.listener = Process([str(script("fleet")), "listener"], self._log("listener"))
        self.workers = self._make_workers()
        self.model: Path | None = None  # for vLLM, when the user named none

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _make_workers(self) -> list[CeleryWorker]:
        workers = []
        for name, queue, width in WORKERS:
            options = ["-Q", queue, "-P", "threads", "-c", str(width)]
            workers.append(CeleryWorker(name, "fleet", options, self._log(f"worker-{name}"), {}))
        if self.engine == "vllm":
            workers.append(GpuWorker(self._log("worker-gpu")))
        return workers

    def staged(self) -> Iterator[tuple[Process, Stage]]:
        """Yields every process with what it is for."""
        yield from ((server, Stage.SERVER) for server in (self.valkey, self.nats, self.neo4j))
        yield self.listener, Stage.BRIDGE
        yield from ((worker, Stage.WORKER) for worker in self.workers)
        yield from ((front, Stage.FRONT) for front in (self.api, self.flower))

    def connect(self) -> None:
        """Tells every process where the servers are; called when they run, for only then their ports are certain."""
        settings = self.settings()
        aliases = {original: None for name, original in ORIGINALS.items() if variables(name)[0] in settings}
        for process in (self.listener, *self.workers, self.api, self.flower):
            process.env.update({**settings, **aliases})
            if isinstance(process, GpuWorker):
                process.env.update(dict.fromkeys(NOT_FOR_GPU))

    def settings(self) -> dict[str, str]:
        """The environment of every process; the API key is for the API alone."""
        return self._engine_settings() | {
            "FLEET_DIR": str(self.folder),
            "FLEET_VALKEY_URL": self.valkey.url,
            "FLEET_NATS_URL": self.nats.url,
            "FLEET_NEO4J_URI": self.neo4j.uri,
            "FLEET_NEO4J_USER": self.neo4j.user,
            "FLEET_NEO4J_PASSWORD": self.neo4j.password,
        }

    def _engine_settings(self) -> dict[str, str]:
        if self.engine != "vllm":
            return {"FLEET_ENGINE": self.engine}
        model = {"gpu_model": str(self.model)} if self.model else {}
        return vllm.variables_of(vllm.settings() | model)

    def addresses(self) -> dict[str, str]:
        """What a client needs to know."""
        return {
            "api_url": self.api.url,
            "api_key": self.api_key,
            "nats_url": self.nats.url,
            "valkey_url": self.valkey.url,
            "neo4j_uri": self.neo4j.uri,
            "neo4j_user": self.neo4j.user,
            "neo4j_password": self.neo4j.password,
            "flower_url": self.flower.url,
        }


def check_engine(engine: str) -> None:
    """Raises: EngineRefused when there is no such engine, or it cannot run here."""
    if engine not in ENGINES:
        raise EngineRefused(f"there is no engine {engine!r}: use one of {', '.join(ENGINES)}")
    if engine == "vllm":
        vllm.check()
