"""Workers of Fleet on a real ValKey, and deliberations that they take to their decision."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.signals import before_task_publish

from fleet.dispatch import Dispatcher
from fleet.models import DeadLetter, DeliberationRequest, Role
from fleet.settings import Settings
from fleet.settings.tls import valkey_tls
from fleet.store import RECORD, Store
from fleet.valkey import install
from fleet.valkey.signing import Signer
from tests.harness import Process, ValkeyServer, wait_until
from tests.integration.security.tls import Authority

ROOT = Path(__file__).parents[3]
FLEET, GPU = "fleet", "tests.integration.security.gpu_app"


class Bench:
    """Workers on the ValKey of `settings`, and somebody who hands in work. There is no Neo4j: decisions wait for it."""

    def __init__(self, folder: Path, settings: Settings, stack: ExitStack):
        self.folder, self.settings, self._stack = folder, settings, stack
        self.store = Store.from_settings(settings)
        stack.callback(self.store.close)

    def worker(self, queues: str, app: str = FLEET, **env: str) -> Process:
        name = app.rpartition(".")[2]
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            app,
            "worker",
            "-Q",
            queues,
            "-n",
            f"{name}@here",
            "-l",
            "INFO",
        ]
        command += ["-P", "threads", "-c", "4"]
        process = Process(command, self.folder / f"{name}-{queues}.log", {**self.environment(), **env}, ROOT)
        self._stack.callback(process.kill)
        process.start()
        wait_until(lambda: " ready." in process.output() or not process.alive, 60, f"ready, {process.log}")
        assert process.alive, process.output()
        return process

    def environment(self) -> dict[str, str]:
        given = {name: getattr(self.settings, name) for name in self.settings.model_fields_set}
        texts = {
            name: getattr(value, "get_secret_value", lambda value=value: str(value))() for name, value in given.items()
        }
        fixed = {"FLEET_NEO4J_URI": "bolt://127.0.0.1:1", "FLEET_ENGINE": "scripted"}
        return {**fixed, **{f"FLEET_{name.upper()}": text for name, text in texts.items()}}

    def dispatcher(self, signer: Signer | None = None) -> Dispatcher:
        app = Celery("fleet.security.tests", set_as_current=False)
        self._stack.callback(app.close)
        url, tls = self.settings.valkey_url.get_secret_value(), dict(valkey_tls(self.settings)) or None
        app.conf.update(broker_url=url, broker_use_ssl=tls, redis_backend_use_ssl=tls)
        app.conf.update(result_backend=f"fleet.valkey.backend:Backend+{url}")
        install(app, signer=signer)
        return Dispatcher(self.store, self.settings, app)

    def deliberate(self, dispatcher: Dispatcher) -> str:
        request = DeliberationRequest(task_description="Write it", role=Role.DEV, num_agents=2, rounds=1)
        return dispatcher.submit_deliberation(request)[0]

    def await_decided(self, id: str, within_s: float = 60) -> None:
        """Until all that is left is Neo4j's."""

        def decided() -> bool:
            where = self.store.deliberations.where(id)
            return where is not None and where.step == RECORD

        wait_until(decided, within_s, f"the decision of {id}")

    def letters(self) -> list[DeadLetter]:
        return list(self.store.pages.dead_letters(100).items)

    def await_letters(self, count: int, within_s: float = 60) -> list[DeadLetter]:
        wait_until(lambda: len(self.letters()) >= count, within_s, f"{count} dead letters")
        return self.letters()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Whoever signs in this process does so until the test ends."""
    receivers = list(before_task_publish.receivers)
    with ExitStack() as stack:
        yield stack
    before_task_publish.receivers = receivers


@pytest.fixture
def new_bench(tmp_path: Path, stack: ExitStack) -> Callable[..., Bench]:
    def make(**settings: Any) -> Bench:
        return Bench(tmp_path, Settings(engine="scripted", nats_enabled=False, **settings), stack)

    return make


@pytest.fixture
def bench(new_bench: Callable[..., Bench], valkey_server: ValkeyServer) -> Bench:
    return new_bench(valkey_url=valkey_server.url)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One whom nobody trusts."""
    return Authority(tmp_path_factory.mktemp("tls") / "other")
