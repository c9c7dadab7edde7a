"""One pinned worker per device of this node, kept running."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from fleet.settings import Settings, variables
from fleet.stack.celery_worker import CeleryWorker
from fleet.stack.errors import StackError
from fleet.stack.folder_lock import only_one
from fleet.stack.signals import stopped_by_signals
from fleet.stack.supervisor import Member, Stage, Stop, Supervisor
from workers.gpu.devices import Group, NodeDevice, WrongDevices, cpu_list
from workers.gpu.last_words import last_words
from workers.gpu.status import LOCK, StatusFile, WorkerStatus

ENGINE_ARGS = variables("gpu_engine_args")[0]
# Beyond the longest generation: its answer has to be stored, and the engine to end.
GRACE_S = 30.0
TAIL_BYTES = 16 * 2**10


class NothingStarted(StackError):
    """Not one worker became ready: the fault is in what they share, not in a device."""


class GpuWorker(CeleryWorker):
    """The worker `gpu<number>` with the devices of `group`, none in an empty one."""

    # What vLLM itself gives its engine is 600 s, and a model may have to be fetched first.
    ready_timeout_s = 3600.0

    def __init__(self, number: int, group: Group, queues: Sequence[str], log: Path, env: Mapping[str, str]):
        pinned = {**env, "CUDA_VISIBLE_DEVICES": ",".join(device.uuid for device in group)}
        name = f"gpu{number}"
        super().__init__(name, "workers.gpu", ["-Q", ",".join(queues)], log, pinned)
        self.command = [*near(group), *self.command]
        self.name, self.group = name, group
        self.starts = 0
        self.last_exit: int | None = None

    def spawn(self) -> None:
        super().spawn()
        self.starts += 1

    def note_exit(self) -> None:
        """Remembers how it ended, for the next start forgets it."""
        self.last_exit = self.popen.returncode if self.popen else None

    def last_words(self) -> str:
        """Why it ended, as far as its log tells; what is killed says nothing of it."""
        if not self.log.exists() or self.last_exit == -signal.SIGKILL:
            return ""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return last_words(log.read().decode(errors="replace"))


class Node(Supervisor):
    """Keeps the workers of a node running, each by itself, and says in a file how they do.

    A worker that ends, also before it was ever ready, is started again after a pause; so one bad device does not take
    the others with it.
    """

    def __init__(
        self,
        workers: Sequence[GpuWorker],
        status: StatusFile,
        drain_s: float,
        on_progress: Callable[[str], None] = lambda _: None,
    ):
        super().__init__(on_progress, drain_s)
        self._workers, self._status = workers, status
        self._any_was_ready = False
        for worker in workers:
            self.add(worker, Stage.WORKER)

    def stopping(self) -> None:
        self._on_progress("stopping")

    def run(self) -> None:
        """As its base does. Raises: NothingStarted when every worker ended before one of them was ready."""
        try:
            super().run()
        finally:
            self._status.remove()

    def _start(self) -> None:
        for member in self.members:
            member.start_at = 0.0

    def _tend(self, members: Iterable[Member]) -> None:
        super()._tend(members)
        self._any_was_ready = self._any_was_ready or any(member.ready for member in self.members)
        self._status.update([self._state_of(*pair) for pair in zip(self.members, self._workers, strict=True)])

    def _plan_start(self, member: Member, reason: str) -> None:
        worker = self._workers[self.members.index(member)]
        worker.note_exit()
        said = worker.last_words()
        super()._plan_start(member, f"{reason}{said and f': {said}'}")
        if not self._any_was_ready and all(member.failures for member in self.members):
            raise NothingStarted("no worker could be started")

    def _state_of(self, member: Member, worker: GpuWorker) -> WorkerStatus:
        state = "waiting" if member.start_at is not None else "ready" if member.ready else "starting"
        return WorkerStatus(
            name=worker.name,
            pid=worker.pid if worker.alive else None,
            devices=tuple(device.uuid for device in worker.group),
            state=state if self._stop is Stop.NO else "draining",
            restarts=max(worker.starts - 1, 0),
            last_exit=worker.last_exit,
        )


def run(
    settings: Settings,
    groups: Sequence[Group],
    queues: Sequence[str],
    on_progress: Callable[[str], None],
    worker: type[GpuWorker] = GpuWorker,
) -> int:
    """Runs a `worker` for each group until SIGINT or SIGHUP (stop now), or SIGTERM (drain; a second one: stop now).

    Returns the exit code. Raises: WrongDevices.
    """
    env = engine_env(settings, groups)
    folder = settings.dir.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with only_one(folder, LOCK, "a GPU launcher"):
            workers = [
                worker(number, group, queues, folder / "logs" / f"gpu{number}.log", env)
                for number, group in enumerate(groups)
            ]
            node = Node(workers, StatusFile(folder), settings.request_timeout_s + GRACE_S, on_progress)
            with stopped_by_signals(node):
                node.run()
    except StackError as error:
        on_progress(str(error))
        return 1
    return 0


def engine_env(settings: Settings, groups: Sequence[Group]) -> dict[str, str]:
    """The variables that spread a model over the devices of a group, which are as many in each.

    Raises: WrongDevices when the engine's arguments say otherwise.
    """
    size = len(groups[0])
    if not size:
        return {}
    given = settings.gpu_engine_args.get("tensor_parallel_size", size)
    if given != size:
        has = f"each worker has {size} device{'s' if size > 1 else ''}"
        raise WrongDevices(f"{ENGINE_ARGS} asks for a tensor_parallel_size of {given}, and {has}")
    return {ENGINE_ARGS: json.dumps({**settings.gpu_engine_args, "tensor_parallel_size": size})} if size > 1 else {}


def near(group: Sequence[NodeDevice]) -> list[str]:
    """What a command begins with to run on the processors near its devices; nothing where that is not known."""
    program = shutil.which("taskset")
    if not program or not group or not all(device.cpus for device in group):
        return []
    allowed = frozenset(os.sched_getaffinity(0))
    cpus = allowed.intersection(cpu for device in group for cpu in device.cpus)
    return [program, "-c", cpu_list(cpus)] if cpus and cpus != allowed else []
