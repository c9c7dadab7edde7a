"""What NVML measures of the devices that this process is pinned to."""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

from fleet.cluster import Device
from workers.gpu import devices

_MIB = 2**20


def measured() -> tuple[Device, ...]:
    """One reading of each device; none without a driver. What a device cannot tell is None."""
    nvml = _nvml()
    if nvml is None:
        return ()
    found = (_handle(nvml, name) for name in os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",") if name)
    return tuple(_reading(nvml, handle) for handle in found if handle is not None)


@cache
def _nvml() -> Any:
    """NVML, initialised for as long as the process lives; None where there is none."""
    try:
        nvml = devices.nvml()
    except devices.NoDevices:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _handle(nvml: Any, name: str) -> Any:
    if name.isdigit():
        return _asked(nvml, lambda: nvml.nvmlDeviceGetHandleByIndex(int(name)))
    return _asked(nvml, lambda: nvml.nvmlDeviceGetHandleByUUID(name))


def _reading(nvml: Any, handle: Any) -> Device:
    memory = _asked(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    used = _asked(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle))  # an instance of a GPU has none
    return Device(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_total_mb=memory and round(memory.total / _MIB, 1),
        memory_used_mb=memory and round(memory.used / _MIB, 1),
        utilization_percent=used and float(used.gpu),
    )


def _asked(nvml: Any, ask: Callable[[], Any]) -> Any:
    """The answer, None when the device cannot give it."""
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
