"""Whether another launcher (torchrun, srun, mpirun) has started this process among others."""

from collections.abc import Mapping

import msgspec

from tune_launch.errors import LaunchError

SEVERAL = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
}
"""Where those that do not speak PyTorch's variables tell how many processes they started."""


class Launcher(msgspec.Struct, frozen=True):
    """Who started this process, and as which."""

    rank: int
    """Number of this process among all, from 0."""
    world_size: int
    """How many there are; may be 1."""
    name: str
    """For messages."""


def other_launcher(environ: Mapping[str, str], *, nodes: int = 1) -> Launcher | None:
    """Return the launcher that started this process for PyTorch's process group; None if nobody did.

    Args:
        environ: The environment of this process.
        nodes: On how many machines this process is asked to start others; srun and mpirun may then have
            started one on each.

    Raises:
        LaunchError: Others were started beside this process, and how to join them is not said. If each
            trained alone, all would write the same files.
    """
    rank, world_size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    if rank is not None and world_size is not None:
        return _checked(environ, rank, world_size)
    if (world_size or 1) > 1:
        raise LaunchError(_cannot_join(f"WORLD_SIZE={world_size} without RANK", "WORLD_SIZE"))
    if (rank or 0) > 0:
        raise LaunchError(_cannot_join(f"RANK={rank} without WORLD_SIZE", "RANK"))
    for variable, name in SEVERAL.items():
        tasks = _number(environ, variable) or 1
        if tasks > 1 and nodes == 1:
            told = f"{name} started {tasks} processes ({variable}) without RANK and WORLD_SIZE"
            raise LaunchError(_cannot_join(told, variable))
    return None


def _checked(environ: Mapping[str, str], rank: int, world_size: int) -> Launcher:
    if not 0 <= rank < world_size:
        raise LaunchError(
            f"RANK={rank} and WORLD_SIZE={world_size} in the environment: ranks are 0 to WORLD_SIZE - 1\n"
            "  mend what sets them, or unset both to train in one process"
        )
    _number(environ, "MASTER_PORT")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
    if missing and world_size > 1:
        told = f"RANK={rank} and WORLD_SIZE={world_size} without {' and '.join(missing)}"
        raise LaunchError(_cannot_join(told, "RANK, WORLD_SIZE"))
    return Launcher(rank, world_size, _name(environ))


def _name(environ: Mapping[str, str]) -> str:
    if "TORCHELASTIC_RUN_ID" in environ:
        return "torchrun"
    return next((name for variable, name in SEVERAL.items() if variable in environ), "another launcher")


def _cannot_join(what: str, variables: str) -> str:
    return (
        f"{what} in the environment: other processes were started, but how to reach them is not said\n"
        "  start one `tune run` on each machine with --nnodes, --node-rank and --rdzv-endpoint,\n"
        f"  or use torchrun; if nobody else is there: unset {variables}"
    )


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise LaunchError(
            f"{name}={text} in the environment: not a number\n  mend what sets it, or unset {name}"
        ) from None
