"""What is asked for is held against what there is, before anything starts."""

import pytest

from tune_launch import LaunchError, Machine, choose_devices

CPU = Machine(gpus=(), vendor=None, source="no NVIDIA or AMD driver is loaded", cores=2)
TWO = Machine(gpus=("0", "1"), vendor="nvidia", source="/proc/driver/nvidia/gpus", cores=8)
FEW = Machine(gpus=("4", "5", "7"), vendor="amd", source="HIP_VISIBLE_DEVICES", cores=8)
MIG = Machine(gpus=("MIG-aa", "MIG-bb"), vendor="nvidia", source="CUDA_VISIBLE_DEVICES", cores=8)


@pytest.mark.parametrize(
    ("machine", "wish", "processes", "devices"),
    [
        (CPU, {}, 1, ()),
        (CPU, {"nproc": 2}, 2, ()),
        (CPU, {"nproc": 64}, 64, ()),
        (TWO, {}, 1, ("0",)),
        (TWO, {"num_gpus": 1}, 1, ("0",)),
        (TWO, {"num_gpus": 2}, 2, ("0", "1")),
        (TWO, {"num_gpus": "all"}, 2, ("0", "1")),
        (TWO, {"nproc": 2}, 2, ()),
        (FEW, {"num_gpus": 2}, 2, ("4", "5")),
        (FEW, {"gpus": "7, 4"}, 2, ("7", "4")),
        (MIG, {"gpus": "MIG-bb"}, 1, ("MIG-bb",)),
        (MIG, {"gpus": "1,0"}, 2, ("MIG-bb", "MIG-aa")),
    ],
)
def test_a_wish_that_can_be_fulfilled_is(machine, wish, processes, devices):
    choice = choose_devices(machine, **wish)
    assert (choice.processes, choice.devices, choice.vendor) == (processes, devices, machine.vendor)


USE_CPU = "`--nproc 2` trains with 2 processes on the CPU (2 cores), or leave it out for one process"
USE_ALL = "`--num-gpus 2` or `--num-gpus all` uses them all"


@pytest.mark.parametrize(
    ("machine", "wish", "told", "instead"),
    [
        (CPU, {"num_gpus": 1}, "--num-gpus 1: no GPU is here (no NVIDIA or AMD driver is loaded)", USE_CPU),
        (CPU, {"num_gpus": "all"}, "--num-gpus all: no GPU is here", USE_CPU),
        (CPU, {"num_gpus": 0}, "--num-gpus 0: no GPU is here", USE_CPU),
        (CPU, {"gpus": "0"}, "--gpus 0: no GPU is here", USE_CPU),
        (CPU, {"nproc": 0}, "--nproc 0: it takes at least one process", USE_CPU),
        (CPU, {"nproc": -1}, "--nproc -1: it takes at least one process", USE_CPU),
        (TWO, {"num_gpus": 64}, "--num-gpus 64: 2 GPUs are here (/proc/driver/nvidia/gpus)", USE_ALL),
        (TWO, {"num_gpus": 0}, "--num-gpus 0: 2 GPUs are here", USE_ALL),
        (TWO, {"num_gpus": -1}, "--num-gpus -1: 2 GPUs are here", USE_ALL),
        (
            TWO,
            {"gpus": "0,2"},
            "--gpus 0,2: no GPU 2; 2 GPUs are here (/proc/driver/nvidia/gpus): 0, 1",
            USE_ALL,
        ),
        (TWO, {"gpus": "0,0"}, "--gpus 0,0: GPU 0 stands there twice", ""),
        (TWO, {"gpus": ""}, "--gpus '': no GPU ''", USE_ALL),
        (TWO, {"gpus": "0,"}, "--gpus 0,: no GPU ''", USE_ALL),
        (FEW, {"gpus": "0"}, "no GPU 0; 3 GPUs are here (HIP_VISIBLE_DEVICES): 4, 5, 7", "`--num-gpus 3` or"),
        (MIG, {"gpus": "0,MIG-aa"}, "GPU MIG-aa stands there twice", ""),
        (
            TWO,
            {"num_gpus": 2, "nproc": 2},
            "--num-gpus 2 and --nproc 2: each says alone",
            "leave all but one out",
        ),
        (TWO, {"gpus": "0", "num_gpus": "all"}, "--num-gpus all and --gpus 0: each", ""),
    ],
)
def test_a_wish_that_cannot_be_fulfilled_is_told_with_what_to_type_instead(machine, wish, told, instead):
    with pytest.raises(LaunchError) as error:
        choose_devices(machine, **wish)
    assert told in str(error.value)
    assert instead in str(error.value)
