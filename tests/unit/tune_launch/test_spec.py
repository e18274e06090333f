"""A launch is checked and described before it starts, and leaves the user's environment its say."""

import socket
import sys

import pytest

from tune_launch import LaunchError, LaunchSpec, describe, environment

TWO_GPUS = {"processes": 2, "devices": ("0", "3"), "vendor": "nvidia"}
TWO_MACHINES = {"nodes": 2, "rdzv_endpoint": "node0:29500"}
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"processes": 0}, "at least one"),
        ({"processes": 2, "devices": ("0",)}, "2 processes on 1 GPUs (0): one each"),
        ({"max_restarts": -1}, "--max-restarts -1"),
        ({"hang_timeout_s": 0}, "--hang-timeout 0"),
        ({"hang_timeout_s": float("nan")}, "--hang-timeout nan"),
        ({"nodes": 0}, "--nnodes 0"),
        ({"nodes": 2}, "--nnodes 2 without --rdzv-endpoint: the machines must know where to meet"),
        ({"nodes": 2}, "--rdzv-endpoint node0:29500, and run the same"),
        ({**TWO_MACHINES, "node_rank": 2}, "--node-rank 2: with --nnodes 2 the machines are 0 to 1"),
        ({**TWO_MACHINES, "node_rank": -1}, "--node-rank -1"),
        ({"node_rank": 1}, "--node-rank 1: with --nnodes 1 the machines are 0"),
    ],
)
def test_a_launch_that_cannot_be_is_told(fields, told):
    with pytest.raises(LaunchError) as error:
        LaunchSpec(script="a.py", **fields)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "endpoint", ["node0", "node0:", ":29500", "node0:http", "node0:0", "::1:29500", "a:99999", ""]
)
def test_a_meeting_place_is_host_and_port(endpoint):
    with pytest.raises(LaunchError, match="--rdzv-endpoint"):
        LaunchSpec(script="a.py", nodes=2, rdzv_endpoint=endpoint)


@pytest.mark.parametrize("endpoint", ["node0:29500", "10.0.0.5:1", "[fd00::5]:29500", "localhost:65535"])
def test_a_meeting_place_may_be_name_or_address(endpoint):
    LaunchSpec(script="a.py", nodes=2, rdzv_endpoint=endpoint)


def test_cores_are_shared_among_processes():
    spec = LaunchSpec(script="a.py", processes=3)
    assert environment(spec, {}, 8)["OMP_NUM_THREADS"] == "2"
    assert environment(spec, {}, 1)["OMP_NUM_THREADS"] == "1"


def test_one_process_on_the_cpu_is_left_as_it_is():
    assert environment(LaunchSpec(script="a.py"), {}, 8) == {}


def test_processes_on_one_machine_do_not_need_its_name():
    spec = LaunchSpec(script="a.py", processes=2)
    assert environment(spec, {}, 8)["GLOO_SOCKET_IFNAME"] == LOOPBACK
    far = LaunchSpec(script="a.py", processes=2, **TWO_MACHINES)
    assert "GLOO_SOCKET_IFNAME" not in environment(far, {}, 8)
    near = LaunchSpec(script="a.py", nodes=2, rdzv_endpoint="localhost:29500")
    assert environment(near, {}, 8)["GLOO_SOCKET_IFNAME"] == LOOPBACK


def test_what_the_user_has_set_stays():
    mine = {"OMP_NUM_THREADS": "5", "GLOO_SOCKET_IFNAME": "eth0", "TORCH_CPP_LOG_LEVEL": "INFO"}
    assert environment(LaunchSpec(script="a.py", processes=2), mine, 8) == {}


@pytest.mark.parametrize(
    ("vendor", "devices", "environ", "variables"),
    [
        ("nvidia", ("3",), {"CUDA_VISIBLE_DEVICES": "2,3"}, {"CUDA_VISIBLE_DEVICES": "3"}),
        ("amd", ("3",), {}, {"HIP_VISIBLE_DEVICES": "3"}),
        (
            "amd",
            ("3",),
            {"CUDA_VISIBLE_DEVICES": "2,3"},
            {"HIP_VISIBLE_DEVICES": "3", "CUDA_VISIBLE_DEVICES": "3"},
        ),
        ("nvidia", (), {}, {"CUDA_VISIBLE_DEVICES": ""}),
        ("amd", (), {}, {"HIP_VISIBLE_DEVICES": "-1"}),
        (None, (), {}, {}),
    ],
)
def test_processes_see_the_chosen_gpus_alone(vendor, devices, environ, variables):
    spec = LaunchSpec(script="a.py", devices=devices, vendor=vendor)
    assert environment(spec, environ, 8) == variables


def test_a_dry_run_tells_what_would_be():
    told = dict(describe(LaunchSpec(script="a.py", **TWO_GPUS, max_restarts=3), {}, 8))
    assert told == {
        "Processes": "2 on this machine",
        "Devices": "GPUs 0,3 (CUDA_VISIBLE_DEVICES=0,3)",
        "Backend": "nccl",
        "Threads": "4 in each process (OMP_NUM_THREADS=4; 8 cores here)",
        "Rendezvous": "127.0.0.1, on a free port",
        "Restarts": "up to 3",
        "Python": sys.executable,
    }


@pytest.mark.parametrize(
    ("fields", "label", "text"),
    [
        ({}, "Processes", "1, in this process"),
        ({}, "Devices", "CPU"),
        ({}, "Threads", "as PyTorch chooses (1 core here)"),
        ({}, "Rendezvous", "none"),
        ({}, "Restarts", "none"),
        ({"processes": 2}, "Backend", "gloo"),
        ({"vendor": "nvidia"}, "Devices", "CPU (the GPUs are hidden: CUDA_VISIBLE_DEVICES=)"),
        ({**TWO_GPUS, **TWO_MACHINES}, "Processes", "2 on each of 2 machines, 4 in all"),
        (TWO_MACHINES, "Rendezvous", "node0:29500, id tune; machines are numbered as they arrive"),
        (
            {**TWO_MACHINES, "node_rank": 0, "rdzv_id": "mine"},
            "Rendezvous",
            "node0:29500, id mine; this is machine 0 of 0 to 1",
        ),
    ],
)
def test_a_dry_run_tells_each_case(fields, label, text):
    assert dict(describe(LaunchSpec(script="a.py", **fields), {}, 1))[label] == text


def test_a_dry_run_tells_whose_choice_the_threads_are():
    told = dict(describe(LaunchSpec(script="a.py", processes=2), {"OMP_NUM_THREADS": "7"}, 8))
    assert told["Threads"] == "7 in each process (OMP_NUM_THREADS in your environment; 8 cores here)"


def test_the_loopback_interface_is_there():
    assert LOOPBACK in {name for _, name in socket.if_nameindex()}
