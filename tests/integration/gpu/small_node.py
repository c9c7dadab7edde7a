"""A node whose workers are small programs: `python -m tests.integration.gpu.small_node WORKERS`.

All else is what `python -m workers.gpu` runs. Files in FLEET_DIR say what its workers do: `broken-gpu0` ends gpu0 at
once, and a worker that is told to end does so when there is a file `finish`.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fleet.settings import get_settings
from fleet.stack import supervisor
from workers.gpu import launcher
from workers.gpu.devices import Group, NodeDevice
from workers.gpu.launcher import GpuWorker

# Has a child, as vLLM has its engine, and notes whether its predecessor's child is there when it starts.
WORKER = """
import os, pathlib, psutil, signal, subprocess, sys, time
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
def lives(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
def finish(*_):
    while not (folder / "finish").exists():
        time.sleep(0.02)
    (folder / f"drained-{name}").write_text("with its child" if lives(child.pid) else "without its child")
    sys.exit()
if (folder / f"broken-{name}").exists():
    sys.exit(f"workers.gpu: cannot load nowhere on {os.environ['CUDA_VISIBLE_DEVICES']}")
signal.signal(signal.SIGTERM, finish)
children = folder / f"children-{name}"
orphans = [pid for pid in children.read_text().split() if lives(int(pid))] if children.exists() else []
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with children.open("a") as file:
    file.write(f"{child.pid}\\n")
print(f"orphans: {orphans}")
print(f"{name}@here ready.")
while True:
    time.sleep(0.05)
"""


class SmallWorker(GpuWorker):
    def __init__(self, number: int, group: Group, queues: Sequence[str], log: Path, env: Mapping[str, str]):
        super().__init__(number, group, queues, log, env)
        self.command = [sys.executable, "-c", WORKER, self.name, str(log.parents[1])]


def main(workers: str) -> int:
    supervisor.FIRST_BACKOFF_S = 0.2
    supervisor.STOP_S = 0.5
    launcher.GRACE_S = 0.0
    groups = [(NodeDevice(f"GPU-{number}", str(number)),) for number in range(int(workers))]
    return launcher.run(get_settings(), groups, ["gpu"], lambda line: print(line, flush=True), SmallWorker)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
