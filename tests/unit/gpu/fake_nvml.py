"""NVML as far as Fleet asks it, over GPUs that a test makes up."""

from dataclasses import dataclass
from types import SimpleNamespace


class NVMLError(Exception):
    pass


class NVMLError_NotFound(NVMLError):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


@dataclass(eq=False)
class Instance:
    uuid: str
    place: int = 0
    gpu: "Gpu | None" = None


@dataclass(eq=False)
class Gpu:
    """`instances` by their places, None for a GPU that knows no MIG; `affinity` in words of 64 processors."""

    uuid: str
    instances: dict[int, str] | None = None
    mig_mode: bool = False
    affinity: list[int] | None = None
    bus_id: str = "00000000:00:00.0"
    lost: bool = False


class FakeNvml:
    NVML_DEVICE_MIG_ENABLE = 1
    NVMLError = NVMLError
    NVMLError_NotFound = NVMLError_NotFound
    NVMLError_NotSupported = NVMLError_NotSupported

    def __init__(self, *gpus: Gpu, driver: bool = True):
        self._gpus, self._driver = gpus, driver
        self.sessions = 0

    def nvmlInit(self) -> None:
        if not self._driver:
            raise NVMLError("Driver Not Loaded")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        assert self.sessions, "asked outside a session"
        if self._gpus[index].lost:
            raise NVMLError("GPU is lost")
        return self._gpus[index]

    def nvmlDeviceGetUUID(self, handle: Gpu | Instance) -> str:
        return handle.uuid

    def nvmlDeviceGetIndex(self, handle: Gpu | Instance) -> int:
        return handle.place if isinstance(handle, Instance) else self._gpus.index(handle)

    def nvmlDeviceGetMigMode(self, handle: Gpu) -> list[int]:
        if handle.instances is None:
            raise NVMLError_NotSupported("Not Supported")
        return [int(handle.mig_mode), int(handle.mig_mode)]

    def nvmlDeviceGetMaxMigDeviceCount(self, _: Gpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Gpu, index: int) -> Instance:
        if index not in (handle.instances or {}):
            raise NVMLError_NotFound("Not Found")
        assert handle.instances
        return Instance(handle.instances[index], index, handle)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Gpu | Instance) -> Gpu:
        if not isinstance(handle, Instance) or not handle.gpu:
            raise NVMLError("Invalid Argument")
        return handle.gpu

    def nvmlDeviceGetCpuAffinity(self, handle: Gpu, words: int) -> list[int]:
        if handle.affinity is None:
            raise NVMLError_NotSupported("Not Supported")
        return (handle.affinity + [0] * words)[:words]

    def nvmlDeviceGetPciInfo(self, handle: Gpu) -> SimpleNamespace:
        return SimpleNamespace(busId=handle.bus_id)
