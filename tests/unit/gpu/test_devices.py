"""Devices, groups of them and what goes wrong with both."""

import sys
from pathlib import Path

import pytest

from tests.unit.gpu.fake_nvml import FakeNvml, Gpu
from workers.gpu import __main__ as command
from workers.gpu import devices
from workers.gpu.devices import NodeDevice, NoDevices, NoNvml, WrongDevices
from workers.gpu.mig import answer_with_the_gpu

FOUR = [NodeDevice(f"GPU-{letter}{number}", str(number)) for number, letter in enumerate("aabb")]
WITH_INSTANCES = [NodeDevice("GPU-a", "0"), NodeDevice("MIG-b", "1:0"), NodeDevice("MIG-c", "1:3")]


def uuids(groups: list[devices.Group]) -> list[list[str]]:
    return [[device.uuid for device in group] for group in groups]


def pci_device(folder: Path, bus_id: str, node: int, cpus: str) -> None:
    (folder / bus_id).mkdir()
    (folder / bus_id / "numa_node").write_text(f"{node}\n")
    (folder / bus_id / "local_cpulist").write_text(f"{cpus}\n")


def test_every_gpu_is_a_device() -> None:
    nvml = FakeNvml(Gpu("GPU-a"), Gpu("GPU-b", instances={}))
    assert devices.find(nvml) == [NodeDevice("GPU-a", "0"), NodeDevice("GPU-b", "1")]
    assert nvml.sessions == 0


def test_of_a_gpu_in_mig_mode_the_instances_are_the_devices() -> None:
    nvml = FakeNvml(Gpu("GPU-a"), Gpu("GPU-b", {0: "MIG-b", 3: "MIG-c"}, mig_mode=True))
    assert devices.find(nvml) == WITH_INSTANCES
    assert [device.is_instance for device in WITH_INSTANCES] == [False, True, True]


def test_a_gpu_that_does_not_answer_does_not_hide_the_others() -> None:
    said: list[str] = []
    nvml = FakeNvml(Gpu("GPU-a", lost=True), Gpu("GPU-b"))
    assert devices.find(nvml, on_progress=said.append) == [NodeDevice("GPU-b", "1")]
    assert said == ["GPU 0 is left out: GPU is lost"]


def test_a_device_is_near_the_processors_that_nvml_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda _: 128)
    gpu = Gpu("GPU-a", {0: "MIG-a"}, mig_mode=True, affinity=[0b1011, 0b1])
    [device] = devices.find(FakeNvml(gpu))
    assert device.cpus == {0, 1, 3, 64}


@pytest.mark.parametrize(("node", "cpus"), [(1, {4, 5, 6, 9}), (-1, set())])
def test_where_nvml_names_none_it_is_near_those_of_its_bus_if_that_belongs_to_a_node(
    tmp_path: Path, node: int, cpus: set[int]
) -> None:
    pci_device(tmp_path, "0000:e5:00.0", node, "4-6,9")
    [device] = devices.find(FakeNvml(Gpu("GPU-a", bus_id="00000000:E5:00.0")), tmp_path)
    assert device.cpus == cpus


def test_a_device_is_near_nothing_where_nobody_knows(tmp_path: Path) -> None:
    [device] = devices.find(FakeNvml(Gpu("GPU-a")), tmp_path)
    assert device.cpus == set()


@pytest.mark.parametrize(
    ("nvml", "said"),
    [
        (FakeNvml(driver=False), r"no NVIDIA driver answers \(Driver Not Loaded\): install .*--devices.*--cpu"),
        (FakeNvml(), r"finds no GPU: install .*--cpu"),
        (
            FakeNvml(Gpu("GPU-a", {}, mig_mode=True)),
            r"each is in MIG mode without an instance: see what nvidia-smi -L says",
        ),
    ],
)
def test_no_device_is_said_in_one_line_with_what_to_do(nvml: FakeNvml, said: str) -> None:
    with pytest.raises(NoDevices, match=said) as caught:
        devices.find(nvml)
    assert "\n" not in str(caught.value)
    assert nvml.sessions == 0


def test_a_missing_nvml_package_is_said_in_one_line_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoNvml, match=r"nvidia-ml-py.* is not installed: install fleet\[gpu\].*--cpu"):
        devices.nvml()


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("0", [["GPU-a0"]]),
        ("0;1", [["GPU-a0"], ["GPU-a1"]]),
        ("2,0; 1,3", [["GPU-b2", "GPU-a0"], ["GPU-a1", "GPU-b3"]]),
        ("GPU-b3;GPU-a0", [["GPU-b3"], ["GPU-a0"]]),
        ("GPU-b3,1", [["GPU-b3", "GPU-a1"]]),
    ],
)
def test_devices_are_named_by_number_or_uuid(text: str, groups: list[list[str]]) -> None:
    assert uuids(devices.choose(devices.parse_groups(text), FOUR)) == groups


def test_an_instance_is_named_by_two_numbers_or_the_beginning_of_its_uuid() -> None:
    there = [NodeDevice("MIG-bcd", "1:0"), NodeDevice("MIG-bef", "1:3")]
    assert uuids(devices.choose([["1:3"], ["MIG-bc"]], there)) == [["MIG-bef"], ["MIG-bcd"]]


@pytest.mark.parametrize(
    ("text", "there", "said"),
    [
        ("4", FOUR[:1], r"there is no device '4'; there is 0 \(GPU-a0\)"),
        ("GPU-c", FOUR[:1], r"there is no device 'GPU-c'"),
        ("0;0", FOUR, "named twice: 0"),
        ("0,GPU-a0", FOUR, "named twice: GPU-a0"),
        ("GPU-a", FOUR, r"'GPU-a' could be any of 0 \(GPU-a0\), 1 \(GPU-a1\)"),
        ("G", FOUR, "there is no device 'G'"),
        ("0,1;2", FOUR, "differ in size"),
        ("0,,1", FOUR, "a name is missing"),
        ("", FOUR, "a name is missing"),
        ("0;", FOUR, "a name is missing"),
        ("1", WITH_INSTANCES, "GPU 1 is in MIG mode: name its instances, 1:0, 1:3"),
        ("1:0,1:3", WITH_INSTANCES, "CUDA shows one instance to a process"),
    ],
)
def test_devices_that_cannot_be_meant_are_refused(text: str, there: list[NodeDevice], said: str) -> None:
    with pytest.raises(WrongDevices, match=said):
        devices.choose(devices.parse_groups(text), there)


@pytest.mark.parametrize("text", ["0", "0-3", "0-3,8", "1,3,5-6,64-127"])
def test_a_list_of_processors_is_written_as_the_kernel_does(text: str) -> None:
    assert devices.cpu_list(devices.parse_cpu_list(f"{text}\n")) == text


def test_without_a_word_about_devices_each_has_a_worker() -> None:
    assert command.each_alone(FOUR[:2], None) == [(FOUR[0],), (FOUR[1],)]


def test_only_devices_that_this_process_may_use_have_a_worker() -> None:
    assert command.each_alone(FOUR, "3,GPU-a0") == [(FOUR[3],), (FOUR[0],)]
    with pytest.raises(WrongDevices, match="CUDA_VISIBLE_DEVICES: there is no device '9'"):
        command.each_alone(FOUR, "9")
    with pytest.raises(NoDevices, match="CUDA_VISIBLE_DEVICES is empty: unset it"):
        command.each_alone(FOUR, "")


def test_without_nvml_devices_are_taken_as_named_and_not_guessed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "nvml", lambda: FakeNvml(driver=False))
    assert uuids(list(command.find_groups("0,1;2,3"))) == [["0", "1"], ["2", "3"]]
    assert "no NVIDIA driver answers (Driver Not Loaded): the devices are taken as" in capsys.readouterr().err
    with pytest.raises(NoNvml):
        command.find_groups(None)


def test_vllm_is_told_the_gpu_of_an_instance_instead_of_its_number_within_it() -> None:
    nvml = FakeNvml(Gpu("GPU-a"), Gpu("GPU-b", {5: "MIG-b"}, mig_mode=True))
    nvml.nvmlInit()
    gpu = nvml.nvmlDeviceGetHandleByIndex(1)
    instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 5)
    assert nvml.nvmlDeviceGetIndex(instance) == 5
    answer_with_the_gpu(nvml)
    assert nvml.nvmlDeviceGetIndex(instance) == nvml.nvmlDeviceGetIndex(gpu) == 1
