"""A recipe under bare Python never trains alone where the environment says that there are others."""

import sys
from pathlib import Path

import pytest

from tune_recipes.errors import UserError
from tune_recipes.train.distributed import OTHERS_SAY, has_lost_others, join_world, num_processes


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", *OTHERS_SAY):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK"),
        ({"RANK": "1"}, "RANK=1 without WORLD_SIZE"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS=2 without RANK"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE=4 without RANK"),
        ({"PMI_SIZE": "4"}, "PMI_SIZE=4 without RANK"),
        ({"WORLD_SIZE": "x", "RANK": "0"}, "WORLD_SIZE=x in the environment: not a number"),
    ],
)
def test_others_that_cannot_be_reached_are_told(monkeypatch, variables, told):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told):
        num_processes()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, 1), ({"WORLD_SIZE": "1"}, 1), ({"RANK": "1", "WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "4"}, 4)],
)
def test_the_number_of_processes_is_the_launchers(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert num_processes() == expected


def test_errors_of_one_s_own_are_not_taken_for_the_end_of_others():
    gone = "[/x/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:21895"
    assert has_lost_others(RuntimeError(gone))
    assert not has_lost_others(RuntimeError("Connection closed by peer"))
    assert not has_lost_others(RuntimeError("[/x/gloo/transport/tcp/pair.cc:1] Timed out waiting 1000ms"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads from /proc")
def test_threads_that_carry_messages_end_with_the_world():
    def carriers() -> int:
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        return names.count("pt_gloo_runloop")

    with join_world() as world:
        world.gather("a message")
        before = carriers()
    assert carriers() < before
    assert world.is_first  # whoever still has it keeps no network
