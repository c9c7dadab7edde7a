"""Which devices a node has, as NVML sees them, and how they are shared out to workers.

A worker is pinned by CUDA_VISIBLE_DEVICES with UUIDs, not numbers: CUDA numbers the fastest device 0, NVML and vLLM the
one on the lowest bus address. vLLM 0.32 asks NVML which device a UUID is and knows no abbreviated ones.
"""

import contextlib
import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.errors import FleetError

PCI_DEVICES = Path("/sys/bus/pci/devices")
REMEDY = "install NVIDIA's driver, name the devices with --devices, or start with --cpu"

Group = tuple["NodeDevice", ...]


class NoDevices(FleetError):
    """This node has no device to work on."""

    def __init__(self, reason: str, remedy: str = REMEDY):
        super().__init__(reason, remedy)
        self.reason, self.remedy = reason, remedy

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


class NoNvml(NoDevices):
    """Nobody can say which devices this node has."""


class WrongDevices(FleetError):
    """What was said about devices cannot be meant."""


@dataclass(frozen=True, slots=True)
class NodeDevice:
    """A GPU, or an instance of a GPU in MIG mode.

    `index` is NVML's number of the GPU, with the instance's after a colon: 0 or 0:1. `cpus` are those near it, none
    when that is not known.
    """

    uuid: str
    index: str
    cpus: frozenset[int] = frozenset()

    @property
    def is_instance(self) -> bool:
        return ":" in self.index

    def is_called(self, name: str) -> bool:
        """Whether `name` is its index, its UUID or, as CUDA allows, a beginning of its UUID."""
        return name in (self.index, self.uuid) or (name.startswith(("GPU-", "MIG-")) and self.uuid.startswith(name))


def nvml() -> Any:
    """Returns NVML's module. Raises: NoNvml when it is not installed."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        reason = "nvidia-ml-py, which comes with vLLM and lists the devices, is not installed"
        raise NoNvml(reason, "install fleet[gpu], name the devices with --devices, or start with --cpu") from None


@contextlib.contextmanager
def _session(nvml: Any) -> Iterator[None]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NoNvml(f"no NVIDIA driver answers ({error})") from None
    try:
        yield
    except nvml.NVMLError as error:
        raise NoNvml(f"the NVIDIA driver cannot list the devices ({error})") from None
    finally:
        nvml.nvmlShutdown()


def find(
    nvml: Any, pci_devices: Path = PCI_DEVICES, on_progress: Callable[[str], None] = lambda _: None
) -> list[NodeDevice]:
    """Returns the node's devices; of a GPU in MIG mode its instances, for the GPU itself runs nothing then.

    A GPU that does not answer is left out, and `on_progress` told. Raises: NoDevices.
    """
    devices: list[NodeDevice] = []
    with _session(nvml):
        gpus = range(nvml.nvmlDeviceGetCount())
        for number in gpus:
            try:
                devices += _devices_of(nvml, number, pci_devices)
            except nvml.NVMLError as error:
                on_progress(f"GPU {number} is left out: {error}")
    if not gpus:
        raise NoDevices("the NVIDIA driver finds no GPU")
    if not devices:
        raise NoDevices("no GPU answers, or each is in MIG mode without an instance", "see what nvidia-smi -L says")
    return devices


def _devices_of(nvml: Any, number: int, pci_devices: Path) -> Iterator[NodeDevice]:
    gpu = nvml.nvmlDeviceGetHandleByIndex(number)
    cpus = _near_cpus(nvml, gpu, pci_devices)
    if not _in_mig_mode(nvml, gpu):
        yield NodeDevice(nvml.nvmlDeviceGetUUID(gpu), str(number), cpus)
        return
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with contextlib.suppress(nvml.NVMLError_NotFound):  # a place that no instance has
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place)
            yield NodeDevice(nvml.nvmlDeviceGetUUID(instance), f"{number}:{place}", cpus)


def _in_mig_mode(nvml: Any, gpu: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(gpu)
    except nvml.NVMLError_NotSupported:
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _near_cpus(nvml: Any, gpu: Any, pci_devices: Path) -> frozenset[int]:
    with contextlib.suppress(nvml.NVMLError):
        words = nvml.nvmlDeviceGetCpuAffinity(gpu, os.sysconf("SC_NPROCESSORS_CONF") // 64 + 1)
        if cpus := frozenset(
            64 * place + bit for place, word in enumerate(words) for bit in range(64) if word >> bit & 1
        ):
            return cpus
    with contextlib.suppress(nvml.NVMLError, OSError, ValueError):
        # NVML's domains have eight digits, the kernel's four.
        folder = pci_devices / nvml.nvmlDeviceGetPciInfo(gpu).busId.lower()[-12:]
        if int((folder / "numa_node").read_text()) >= 0:
            return parse_cpu_list((folder / "local_cpulist").read_text())
    return frozenset()


def parse_cpu_list(text: str) -> frozenset[int]:
    """Reads the kernel's form, 0-3,8. Raises: ValueError."""
    ranges = [[int(end) for end in part.split("-")] for part in text.strip().split(",") if part]
    return frozenset(cpu for ends in ranges for cpu in range(ends[0], ends[-1] + 1))


def cpu_list(cpus: frozenset[int]) -> str:
    """Writes the kernel's form, 0-3,8."""
    starts = sorted(cpu for cpu in cpus if cpu - 1 not in cpus)
    ends = sorted(cpu for cpu in cpus if cpu + 1 not in cpus)
    return ",".join(f"{start}-{end}" if start < end else str(start) for start, end in zip(starts, ends, strict=True))


def parse_groups(text: str) -> list[list[str]]:
    """Reads "0,1;2,3", the names of each worker's devices. Raises: WrongDevices."""
    groups = [[name.strip() for name in group.split(",")] for group in text.split(";")]
    names = [name for group in groups for name in group]
    if not all(names):
        raise WrongDevices(f"a name is missing in {text!r}: names go with commas between them, groups with semicolons")
    if len({len(group) for group in groups}) > 1:
        raise WrongDevices(f"the groups of {text!r} differ in size, and each runs the same model")
    _check_once(names)
    return groups


def choose(groups: Sequence[Sequence[str]], devices: Sequence[NodeDevice]) -> list[Group]:
    """Returns the devices of each worker. Raises: WrongDevices."""
    chosen = [tuple(_named(name, devices) for name in group) for group in groups]
    _check_once([device.uuid for group in chosen for device in group])
    if any(device.is_instance for group in chosen if len(group) > 1 for device in group):
        raise WrongDevices("a MIG instance cannot share a model with others: CUDA shows one instance to a process")
    return chosen


def as_named(groups: Sequence[Sequence[str]]) -> list[Group]:
    """Takes the devices of each worker as they were named, where there is no NVML to ask about them."""
    return [tuple(NodeDevice(name, name) for name in group) for group in groups]


def _check_once(names: Sequence[str]) -> None:
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise WrongDevices(f"named twice: {', '.join(twice)}")


def _named(name: str, devices: Sequence[NodeDevice]) -> NodeDevice:
    """Raises: WrongDevices when no device is called so, or several are."""
    called = [device for device in devices if device.is_called(name)]
    if len(called) == 1:
        return called[0]
    if instances := [device.index for device in devices if device.index.startswith(f"{name}:")]:
        raise WrongDevices(f"GPU {name} is in MIG mode: name its instances, {', '.join(instances)}")
    there = ", ".join(f"{device.index} ({device.uuid})" for device in called or devices)
    raise WrongDevices(
        f"{name!r} could be any of {there}" if called else f"there is no device {name!r}; there is {there}"
    )
