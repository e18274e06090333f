"""Several machines train together, each with its own launcher; here all are one machine."""

import json
import signal
import socket
import time

import pytest

from tune_launch import LaunchError, LaunchSpec, launch
from tune_launch.elastic import is_here

TELL = """
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR")
(here / f"told_{rank}").write_text(json.dumps([os.environ[name] for name in names]))
print("hello")
"""


@pytest.fixture
def endpoint():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("numbers", [(0, 1), (None, None)], ids=["numbered", "as they arrive"])
def test_machines_share_one_world(start, tmp_path, endpoint, numbers):
    launchers = [
        start(TELL, nodes=2, node_rank=number, rdzv_endpoint=endpoint, log_dir=str(tmp_path / "logs"))
        for number in numbers
    ]
    done = [launcher.end() for launcher in launchers]
    assert [end.status for end in done] == [0, 0]
    assert sorted(end.out for end in done) == ["", "hello\n"]
    meeting = f"meeting 1 other machine at {endpoint}\n"
    assert sorted(end.err for end in done) == [
        meeting,
        f"{meeting}ranks 2 to 3 run here; rank 0, on another machine, tells how it goes\n",
    ]
    told = [json.loads((tmp_path / f"told_{rank}").read_text()) for rank in range(4)]
    assert told == [[str(rank), str(rank % 2), "4", str(rank // 2), "127.0.0.1"] for rank in range(4)]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        f"rank_{rank}.log" for rank in range(4)
    ]


def test_one_process_on_each_machine_makes_a_world_too(start, tmp_path, endpoint):
    fields = {"processes": 1, "nodes": 2, "rdzv_endpoint": endpoint}
    launchers = [start(TELL, node_rank=number, **fields) for number in (0, 1)]
    assert [launcher.end().status for launcher in launchers] == [0, 0]
    assert json.loads((tmp_path / "told_1").read_text()) == ["1", "0", "2", "1", "127.0.0.1"]


@pytest.mark.parametrize("number", [0, 1, None])
def test_ctrl_c_ends_the_wait_for_other_machines(start, endpoint, number):
    launcher = start("", nodes=2, node_rank=number, rdzv_endpoint=endpoint)
    deadline = time.monotonic() + 30
    while not launcher.err and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    launcher.send(signal.SIGINT)
    sent = time.monotonic()
    done = launcher.end()
    assert time.monotonic() - sent < 10
    assert (done.status, done.err) == (130, f"meeting 1 other machine at {endpoint}\n")


def test_the_host_of_the_meeting_is_known_without_its_name():
    assert is_here("127.0.0.1")
    assert is_here("localhost")
    assert not is_here("192.0.2.1")  # nobody's
    assert not is_here("no-such-host.invalid")


def test_a_place_that_cannot_be_reached_is_told(as_script):
    spec = LaunchSpec(script=as_script(""), nodes=2, node_rank=1, rdzv_endpoint="no-such-host.invalid:29500")
    with pytest.raises(
        LaunchError, match=r"--rdzv-endpoint no-such-host\.invalid:29500: no way to no-such-host"
    ):
        launch(spec)


def test_a_port_that_is_taken_is_told(as_script):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        spec = LaunchSpec(script=as_script(""), nodes=2, node_rank=0, rdzv_endpoint=place)
        with pytest.raises(
            LaunchError, match=r"the 2 machines did not meet there: .*[aA]ddress already in use"
        ):
            launch(spec)
