"""What to say when the disk was full: what was missing, and what there is to go on from."""

import errno
import shutil
from pathlib import Path

from tune_recipes import runs
from tune_recipes.catalog import shown
from tune_recipes.train.checkpoint import list_checkpoints
from tune_recipes.train.sizes import megabytes


def is_disk_full(error: BaseException | None) -> bool:
    """Say whether an error is the system's about a full disk, or about a user's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(run: Path, num_bytes: int | None = None) -> str:
    """Return what to say.

    Args:
        run: The run folder.
        num_bytes: How much was to be written, if that is known.
    """
    free = shutil.disk_usage(run).free
    told = f"{megabytes(free)} are free in {shown(run)}"
    if num_bytes is not None:
        missing = max(num_bytes - free, 1)
        told = f"it takes {megabytes(num_bytes)}, and {told}: {megabytes(missing)} are missing"
    return f"the disk is full: {told}\n  {what_is_saved(run)}"


def what_is_saved(run: Path) -> str:
    """Say what a run that has failed can go on from."""
    whole = list_checkpoints(run / runs.CHECKPOINTS)
    if not whole:
        return f"nothing was saved before; make room, and `tune run --resume {shown(run)}` starts again"
    return f"{whole[-1].name} is whole: make room, and go on with `tune run --resume {shown(run)}`"
