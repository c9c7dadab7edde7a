"""Devices and pinning on real GPUs, with vLLM's own view of them; skipped where NVML finds none."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from workers.gpu import devices
from workers.gpu.devices import NodeDevice, NoDevices
from workers.gpu.launcher import GpuWorker

pytestmark = pytest.mark.gpu

SEEN = """
import json, os, torch
from vllm.platforms import current_platform
print(json.dumps({
    "count": torch.cuda.device_count(),
    "uuid": str(torch.cuda.get_device_properties(0).uuid),
    "gpu": current_platform.device_id_to_physical_device_id(0),
    "capability": list(current_platform.get_device_capability()),
    "cpus": sorted(os.sched_getaffinity(0)),
}))
"""


@pytest.fixture(scope="module")
def there() -> list[NodeDevice]:
    try:
        return devices.find(devices.nvml())
    except NoDevices as error:
        pytest.skip(f"no GPU here: {error.reason}")


@pytest.fixture(scope="module")
def instances(there: list[NodeDevice]) -> list[NodeDevice]:
    return [device for device in there if device.is_instance] or pytest.skip("no GPU is in MIG mode here")


def seen_by_worker(device: NodeDevice, folder: Path) -> dict[str, object]:
    """What a process sees that is started as the worker of `device`."""
    worker = GpuWorker(0, (device,), ["gpu"], folder / "gpu0.log", {})
    prefix = worker.command[: worker.command.index(sys.executable)]
    env = {key: value for key, value in worker.env.items() if value is not None}
    command = [*prefix, sys.executable, "-c", SEEN]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_every_device_that_the_driver_lists_is_found(there: list[NodeDevice]) -> None:
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    instances = re.findall(r"UUID: (MIG-[^)]+)", listed)
    split = {number for number, rest in re.findall(r"^GPU (\d+):.*\n((?:  MIG.*\n?)*)", listed, re.M) if rest}
    gpus = [uuid for number, uuid in re.findall(r"^GPU (\d+):.*UUID: (GPU-[^)]+)", listed, re.M) if number not in split]
    assert {device.uuid for device in there} == {*instances, *gpus}


def test_a_worker_sees_its_device_alone_and_so_does_vllm(there: list[NodeDevice], tmp_path: Path) -> None:
    for device in there:
        seen = seen_by_worker(device, tmp_path)
        assert seen["count"] == 1
        assert seen["gpu"] == int(device.index.split(":")[0])
        if not device.is_instance:
            assert device.uuid == f"GPU-{seen['uuid']}"


def test_a_worker_runs_near_its_device(there: list[NodeDevice], tmp_path: Path) -> None:
    everywhere = os.sched_getaffinity(0)
    for device in there:
        assert seen_by_worker(device, tmp_path)["cpus"] == sorted(everywhere & device.cpus or everywhere)


def test_each_instance_of_a_gpu_serves_vllm(instances: list[NodeDevice], tmp_path: Path) -> None:
    for instance in instances:
        seen = seen_by_worker(instance, tmp_path)
        assert (seen["count"], seen["gpu"]) == (1, int(instance.index.split(":")[0]))
        assert seen["capability"]
