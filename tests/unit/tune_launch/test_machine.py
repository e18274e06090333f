"""GPUs are counted as CUDA and ROCm count them, without asking either."""

import os
from pathlib import Path

import pytest

from tune_launch import detect


@pytest.fixture
def machine(tmp_path):
    """Make a root folder as a Linux with these GPUs shows it."""

    def make(nvidia: int = 0, amd: int = 0) -> Path:
        for number in range(nvidia):
            (tmp_path / f"proc/driver/nvidia/gpus/0000:{number:02x}:00.0").mkdir(parents=True)
        nodes = tmp_path / "sys/class/kfd/kfd/topology/nodes"
        for number in range(amd + 1 if amd else 0):  # the first is the CPU
            (nodes / str(number)).mkdir(parents=True)
            (nodes / str(number) / "properties").write_text(
                f"cpu_cores_count {0 if number else 64}\nsimd_count {304 if number else 0}\nmem_banks_count 1"
            )
        return tmp_path

    return make


def test_a_machine_without_drivers_has_no_gpu(tmp_path):
    found = detect({}, tmp_path)
    assert (found.gpus, found.vendor) == ((), None)
    assert "driver" in found.source


def test_cores_are_those_that_this_process_may_use(tmp_path):
    assert detect({}, tmp_path).cores == len(os.sched_getaffinity(0))


def test_nvidia_gpus_are_counted_in_their_folder(machine):
    found = detect({}, machine(nvidia=2))
    assert (found.gpus, found.vendor, found.source) == (("0", "1"), "nvidia", "/proc/driver/nvidia/gpus")


def test_amd_gpus_are_the_nodes_that_compute(machine):
    found = detect({}, machine(amd=2))
    assert (found.gpus, found.vendor) == (("0", "1"), "amd")
    assert found.source == "/sys/class/kfd/kfd/topology/nodes"


def test_unreadable_nodes_are_no_gpus(machine):
    root = machine(amd=1)
    (root / "sys/class/kfd/kfd/topology/nodes/1/properties").unlink()
    assert detect({}, root).gpus == ()


def test_the_gpu_that_windows_lends_is_found(tmp_path):
    for name in ("dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert detect({}, tmp_path).gpus == ("0",)
    assert detect({"CUDA_VISIBLE_DEVICES": "0,1"}, tmp_path).gpus == ("0", "1")


@pytest.mark.parametrize(
    ("value", "gpus"),
    [
        ("1,0", ("1", "0")),
        (" 2 , 3 ", ("2", "3")),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("0,x,1", ("0",)),
        ("0,9,1", ("0",)),  # there are 4
        ("0,1,1", ()),
        ("00,1", ("0", "1")),
        ("GPU-8932f937-d72c,GPU-5a", ("GPU-8932f937-d72c", "GPU-5a")),
        ("MIG-1/2/3", ("MIG-1/2/3",)),
    ],
)
def test_cuda_visible_devices_counts_as_cuda_counts(machine, value, gpus):
    found = detect({"CUDA_VISIBLE_DEVICES": value}, machine(nvidia=4))
    assert found.gpus == gpus
    assert found.source == "CUDA_VISIBLE_DEVICES"
    assert found.vendor == ("nvidia" if gpus else None)


@pytest.mark.parametrize(
    ("environ", "gpus", "source"),
    [
        ({"HIP_VISIBLE_DEVICES": "1"}, ("1",), "HIP_VISIBLE_DEVICES"),
        ({"HIP_VISIBLE_DEVICES": "-1"}, (), "HIP_VISIBLE_DEVICES"),
        ({"ROCR_VISIBLE_DEVICES": "2,3"}, ("0", "1"), "ROCR_VISIBLE_DEVICES"),  # it renumbers
        ({"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}, ("1",), "HIP_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "3"}, ("3",), "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_variables_of_rocm_count_where_its_gpus_are(machine, environ, gpus, source):
    found = detect(environ, machine(amd=4))
    assert (found.gpus, found.source) == (gpus, source)
    assert found.vendor == ("amd" if gpus else None)


def test_variables_of_rocm_do_not_count_beside_nvidia(machine):
    assert detect({"HIP_VISIBLE_DEVICES": "0"}, machine(nvidia=2)).gpus == ("0", "1")
