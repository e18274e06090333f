"""Who was started by another launcher joins it, or is told why not; nobody trains alone by mistake."""

import pytest

from tune_launch import LaunchError, other_launcher

MASTER = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": ""},
        {"RANK": "0"},
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_NTASKS": "8"},  # salloc and sbatch set it for one process
        {"OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"},
    ],
)
def test_who_was_started_alone_has_no_launcher(environ):
    assert other_launcher(environ) is None


@pytest.mark.parametrize(
    ("environ", "rank", "world_size", "name"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", **MASTER}, 1, 2, "torchrun"),
        ({"RANK": "3", "WORLD_SIZE": "8", "SLURM_STEP_NUM_TASKS": "8", **MASTER}, 3, 8, "srun"),
        ({"RANK": "0", "WORLD_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2", **MASTER}, 0, 2, "mpirun"),
        ({"RANK": "0", "WORLD_SIZE": "2", **MASTER}, 0, 2, "another launcher"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, 0, 1, "another launcher"),
    ],
)
def test_who_was_started_with_others_joins_them(environ, rank, world_size, name):
    launcher = other_launcher(environ)
    assert launcher is not None
    assert (launcher.rank, launcher.world_size, launcher.name) == (rank, world_size, name)


@pytest.mark.parametrize(
    ("environ", "told", "variables"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 without RANK", "WORLD_SIZE"),
        ({"RANK": "2"}, "RANK=2 without WORLD_SIZE", "RANK"),
        (
            {"RANK": "1", "WORLD_SIZE": "2"},
            "RANK=1 and WORLD_SIZE=2 without MASTER_ADDR and MASTER_PORT",
            "RANK, WORLD_SIZE",
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"},
            "without MASTER_PORT",
            "RANK, WORLD_SIZE",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "2"},
            "srun started 2 processes (SLURM_STEP_NUM_TASKS) without RANK and WORLD_SIZE",
            "SLURM_STEP_NUM_TASKS",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes", "OMPI_COMM_WORLD_SIZE"),
        ({"PMI_SIZE": "2"}, "mpiexec started 2 processes", "PMI_SIZE"),
    ],
)
def test_who_cannot_join_the_others_is_told_what_to_do(environ, told, variables):
    with pytest.raises(LaunchError) as error:
        other_launcher(environ)
    assert told in str(error.value)
    assert "--nnodes, --node-rank and --rdzv-endpoint" in str(error.value)
    assert str(error.value).endswith(f"unset {variables}")


def test_srun_may_start_one_launcher_on_each_machine():
    assert other_launcher({"SLURM_STEP_NUM_TASKS": "2"}, nodes=2) is None


@pytest.mark.parametrize(
    "environ",
    [
        {"RANK": "one"},
        {"WORLD_SIZE": "2.0"},
        {"SLURM_STEP_NUM_TASKS": "2(x2)"},
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "http"},
        {"RANK": "2", "WORLD_SIZE": "2", **MASTER},
        {"RANK": "-1", "WORLD_SIZE": "2", **MASTER},
        {"RANK": "0", "WORLD_SIZE": "0", **MASTER},
    ],
)
def test_nonsense_in_the_environment_is_told(environ):
    with pytest.raises(LaunchError, match=r"in the environment.*\n  mend what sets"):
        other_launcher(environ)
