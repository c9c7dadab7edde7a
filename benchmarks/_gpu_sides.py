"""The ways to the same vLLM engine that `benchmarks/gpu_worker.py` compares, each as one call that does a run."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from celery import Celery

from benchmarks._fleet import Client
from fleet.deliberation import prompts, schemas
from fleet.dispatch import Dispatcher
from fleet.events import TaskCompleted, TaskFailed
from fleet.models import Answer, Constraints, DeliberationRequest, Role, Task
from fleet.settings import Settings
from fleet.stack import vllm
from fleet.stack.processes import Fleet, HttpServer
from fleet.store import Store
from fleet.tasks.agent import SPREAD, TEMPERATURE
from fleet.valkey import install

ROOT = Path(__file__).resolve().parents[1]
PROPOSAL_CHARS = 600
FIRST_STEP = "propose:0"
_FINISHED = {f"orchestration.deliberation.{ending}" for ending in ("completed", "failed", "cancelled")}
LIMIT_S = 600.0
TASK = "Design {} of an exchange office: keep the rates of all currencies and answer within two milliseconds."


@dataclass(frozen=True)
class Run:
    """One measured run. `cpu_s` by who used it: engine (vLLM's processes), front (the one that asks it), rest.

    For each request, `first_ms` is the time to its first token and `asked_ms` that until the engine was asked, both
    from its submission.
    """

    wall_s: float
    tokens: int
    first_ms: list[float]
    asked_ms: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.wall_s


@dataclass(frozen=True)
class Work:
    """`size` requests at once, by deliberations of at most `agents`; no two runs have the same task.

    What is asked for is the same everywhere else, and its text is as long.
    """

    size: int
    number: int
    agents: int

    @property
    def task(self) -> str:
        return TASK.format(f"service {self.number:06d}")

    def councils(self) -> list[int]:
        """The agents of each deliberation."""
        whole, rest = divmod(self.size, self.agents)
        return [self.agents] * whole + ([rest] if rest else [])


class Cpu:
    """CPU seconds that processes and what is below them use; vLLM's own processes are the engine."""

    def __init__(self, front: Sequence[int], rest: Sequence[int]):
        self._families = {"front": front, "rest": rest}

    def used(self) -> dict[str, float]:
        used = {"engine": 0.0, "front": 0.0, "rest": 0.0}
        for name, roots in self._families.items():
            for process in _families(roots):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    used["engine" if process.name().startswith("VLLM") else name] += times.user + times.system
        return used

    def measured(self, run: Callable[[], Run]) -> Run:
        before = self.used()
        done = run()
        after = self.used()
        cpu_s = {name: after[name] - before[name] for name in after}
        return replace(done, cpu_s=cpu_s)


def here() -> int:
    return os.getpid()


def _families(roots: Iterable[int]) -> Iterator[psutil.Process]:
    for root in roots:
        process = psutil.Process(root)
        yield process
        if root != here():  # all processes of the benchmark are below this one
            yield from process.children(recursive=True)


class Direct:
    """vLLM's AsyncLLM in a process of its own (`benchmarks/_gpu_direct.py`)."""

    def __init__(self, engine_args: dict[str, Any], log: Path, max_tokens: int):
        self._schema = schemas.proposal_schema(PROPOSAL_CHARS)
        self._max_tokens = max_tokens
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks._gpu_direct", json.dumps(engine_args)],
                env={**os.environ, **vllm.ENVIRONMENT},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.cpu = Cpu([self._process.pid], [])

    def await_ready(self) -> None:
        self._answer()

    def run(self, work: Work) -> Run:
        requests = [request for council in work.councils() for request in _requests(work.task, council)]
        asked = {"requests": requests, "schema": self._schema, "max_tokens": self._max_tokens}
        assert self._process.stdin is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return Run(**self._answer())

    def close(self) -> None:
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            for process in list(_families([self._process.pid])):
                process.kill()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the direct driver ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _requests(text: str, agents: int) -> list[dict[str, Any]]:
    """What the agents of one deliberation ask an engine for (`fleet.tasks.agent`)."""
    names = tuple(f"agent-dev-{number:03d}" for number in range(1, agents + 1))
    about: dict[str, Any] = {"deliberation_id": "none", "task_id": "none", "timeout_ms": 0, "created_at_ms": 0}
    task = Task(role=Role.DEV, task_description=text, agents=names, **about)
    schema = schemas.proposal_schema(PROPOSAL_CHARS)
    return [
        {
            "messages": [{"role": one.role, "content": one.content} for one in prompts.propose(task, name, schema)],
            "temperature": TEMPERATURE * (1.0 if name == names[0] else SPREAD),
        }
        for name in names
    ]


class Parts:
    """Parts through ValKey to the workers of one queue, until the last answer is stored. Nobody closes the steps."""

    def __init__(self, settings: Settings, cpu: Cpu):
        self.store, self.cpu = Store.from_settings(settings), cpu
        url = settings.valkey_url.get_secret_value()
        app = Celery("fleet.benchmark", set_as_current=False)
        app.conf.update(broker_url=url, result_backend=f"fleet.valkey.backend:Backend+{url}")
        install(app)
        self._dispatcher = Dispatcher(self.store, settings, app)

    def run(self, work: Work) -> Run:
        after, began = self.store.events.newest_id(), time.time()
        sent: dict[str, float] = {}
        for agents in work.councils():
            at = time.time()
            sent[self._dispatcher.submit_deliberation(_request(work.task, agents))[0]] = at
        ended = _await(self.store, after, work.size, {TaskCompleted.SUBJECT, TaskFailed.SUBJECT})
        given = [(sent[id], one) for id in sent for one in self.store.deliberations.answers(id)[FIRST_STEP].values()]
        return _run_of(ended - began, given)

    def one_at_a_time(self, work: Work, count: int) -> Run:
        """As a worker that takes one part at a time: the next of `count` is submitted when the last is answered."""
        runs = [self.run(Work(1, work.number + place, 1)) for place in range(count)]
        wall_s, tokens = sum(run.wall_s for run in runs), sum(run.tokens for run in runs)
        return Run(wall_s, tokens, [run.first_ms[0] for run in runs], [run.asked_ms[0] for run in runs])

    def close(self) -> None:
        self.store.close()

    def heard(self, work: Work) -> Run:
        """While somebody listens to all that is written, as the listener does."""
        with _listening(self.store) as heard:
            run = self.run(work)
        return replace(run, notes={"messages": len(heard)})


@contextmanager
def _listening(store: Store) -> Iterator[list[int]]:
    subscription, over, heard = store.tokens.subscribe(), threading.Event(), list[int]()

    def listen() -> None:
        while not over.is_set():
            heard.extend(map(len, subscription.read(0.2)))

    thread = threading.Thread(target=listen, name="listener")
    thread.start()
    try:
        yield heard
    finally:
        over.set()
        thread.join()
        subscription.close()


class Deliberations:
    """Whole deliberations by HTTP, until all of them are final: councils, decisions and Neo4j included."""

    def __init__(self, fleet: Fleet, cpu: Cpu):
        self._fleet, self.cpu = fleet, cpu
        self._store = Store(fleet.valkey.client())

    def run(self, work: Work) -> Run:
        after, began = self._store.events.newest_id(), time.time()
        sent: dict[str, float] = {}
        with Client(self._fleet) as client:
            for agents in work.councils():
                at = time.time()
                sent[str(client.post("/v1/deliberations", _body(work.task, agents))["deliberation_id"])] = at
        ended = _await(self._store, after, len(sent), _FINISHED)
        found = self._store.deliberations
        given = [(at, one) for id, at in sent.items() for step in found.answers(id).values() for one in step.values()]
        return replace(_run_of(ended - began, given), notes=self._statuses(sent))

    def close(self) -> None:
        self._store.close()

    def _statuses(self, ids: Iterable[str]) -> dict[str, int]:
        found = [self._store.deliberations.get(id) for id in ids]
        names = [one.status.value for one in found if one]
        return {name: names.count(name) for name in sorted(set(names))}


class VllmServer(HttpServer):
    """vLLM's own OpenAI server with the engine's arguments."""

    ready_timeout_s = 600.0
    path = "/health"

    def __init__(self, engine_args: dict[str, Any], log: Path):
        super().__init__(log, env=vllm.ENVIRONMENT)
        self._engine_args = engine_args

    def configure(self) -> None:
        listening = ["--host", "127.0.0.1", "--port", str(self.port)]
        given = [text for name, value in self._engine_args.items() for text in _option(name, value)]
        self.command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *listening, *given]


def _option(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    return [flag, value if isinstance(value, str) else json.dumps(value)]


def _body(text: str, agents: int) -> dict[str, Any]:
    constraints = {"timeout_seconds": int(LIMIT_S)}
    about = {"task_description": text, "role": Role.DEV, "constraints": constraints}
    return {**about, "rounds": 0, "num_agents": agents}


def _request(text: str, agents: int) -> DeliberationRequest:
    return DeliberationRequest(**{**_body(text, agents), "constraints": Constraints(timeout_seconds=int(LIMIT_S))})


def _await(store: Store, after: str, count: int, subjects: set[str]) -> float:
    """The time of the last of `count` events, by ValKey's clock."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for event in store.events.read(after, 1000, block_ms=1000):
            after = event.id
            count -= event.subject in subjects
            if count == 0:
                return int(after.partition("-")[0]) / 1000
    raise RuntimeError(f"{count} answers are missing after {LIMIT_S:g} s")


def _run_of(wall_s: float, given: Sequence[tuple[float, Answer]]) -> Run:
    """Of answers, each with the Unix time at which its deliberation was submitted.

    Answers that were cut count as others do. An engine's failure has no tokens, and would spoil the figure.
    """
    failed = [one.failure for _, one in given if not one.completion_tokens or one.first_token_ms is None]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(given)} answers failed: {failed[0]}")
    # Some tenths of a millisecond too many: what it takes to read the answer.
    asked_ms = [one.created_at_ms - one.latency_ms - sent * 1000 for sent, one in given]
    first_ms = [asked + (one.first_token_ms or 0) for asked, (_, one) in zip(asked_ms, given, strict=True)]
    return Run(wall_s, sum(one.completion_tokens for _, one in given), first_ms, asked_ms)
