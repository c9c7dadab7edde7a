"""Lets vLLM work on MIG instances other than those with small numbers; vLLM loads it as a plugin in every process."""

import contextlib
from typing import Any


def register() -> None:
    """Called by vLLM before it looks for its platform; says nothing about which one it is."""
    import vllm.third_party.pynvml as nvml

    answer_with_the_gpu(nvml)


def answer_with_the_gpu(nvml: Any) -> None:
    """Makes `nvmlDeviceGetIndex` say of a MIG instance which GPU it is in, instead of its number within that GPU.

    vLLM 0.32 (`NvmlCudaPlatform.device_control_id_to_physical_device_id`) takes the number of whatever
    CUDA_VISIBLE_DEVICES names for a GPU's: the second instance of the only GPU would be GPU 1, which is not there.
    """
    own_index = nvml.nvmlDeviceGetIndex

    def index(handle: Any) -> int:
        with contextlib.suppress(nvml.NVMLError):  # it is a GPU, or its driver knows no MIG
            handle = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        return int(own_index(handle))

    nvml.nvmlDeviceGetIndex = index
