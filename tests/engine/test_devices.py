import dataclasses
from typing import Any

import pytest

from headrace.engine.devices import check_devices, devices_of
from headrace.engine.topology import made_up
from headrace.errors import DeviceNotFound, InvalidOption

PLAIN = made_up(4)
WITH_GPUS = dataclasses.replace(PLAIN, gpus=("NVIDIA H200", "NVIDIA H200"))


@pytest.mark.parametrize("devices", ["cpu", "CPU", ["cpu"], ("cpu",)])
def test_the_cpu_is_always_there(devices: Any) -> None:
    check_devices(devices, PLAIN)
    check_devices(devices, WITH_GPUS)


@pytest.mark.parametrize("device", ["cuda:0", "cuda", "gpu", "tpu", "cpu:1", "", "cpu ", "cuda:-1"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(device: str) -> None:
    for devices in (device, ["cpu", device]):
        with pytest.raises(DeviceNotFound) as refused:
            check_devices(devices, PLAIN)
        assert str(refused.value) == f"there is no device {device!r} here; choose from: cpu (4 cores)"
        assert (refused.value.device, refused.value.devices) == (device, ("cpu",))


def test_gpus_are_among_those_that_are_there() -> None:
    assert devices_of(WITH_GPUS) == {"cpu": "4 cores", "cuda:0": "NVIDIA H200", "cuda:1": "NVIDIA H200"}
    with pytest.raises(DeviceNotFound, match=r"cpu \(4 cores\), cuda:0 \(NVIDIA H200\), cuda:1 \(NVIDIA H200\)"):
        check_devices("cuda:2", WITH_GPUS)


@pytest.mark.parametrize("device", ["cuda:0", "CUDA:1", "cuda", "gpu"])
def test_a_gpu_that_is_there_is_not_called_missing(device: str) -> None:
    with pytest.raises(InvalidOption, match=r"is there \(NVIDIA H200\), but this version runs models on the CPU: "):
        check_devices(device, WITH_GPUS)


@pytest.mark.parametrize("devices", [None, 0, [], [0], {"cpu"}, [["cpu"]], b"cpu"])
def test_devices_are_names(devices: Any) -> None:
    with pytest.raises(InvalidOption, match="devices is the name of a device or a list of names"):
        check_devices(devices, PLAIN)


def test_the_cpu_is_one_device() -> None:
    with pytest.raises(InvalidOption, match="names the CPU 2 times"):
        check_devices(["cpu", "cpu"], PLAIN)
