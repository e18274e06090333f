"""What a check finds."""

from pathlib import Path
from typing import Literal

from msgspec import Struct

from tune_checkpoint.errors import CheckpointError

Check = Literal["headers", "index", "shapes", "values", "tokenizer", "manifest"]


class Problem(Struct, frozen=True):
    """One thing that is wrong with a checkpoint."""

    check: Check
    file: str
    """The file's name."""
    tensor: str | None
    message: str
    """A sentence with the file, and the tensor if it is about one."""


def problem(check: Check, file: Path | str, what: str, tensor: str | None = None) -> Problem:
    """Say what is wrong with a file, or with a tensor in it.

    Args:
        check: what found it.
        file: its path, or the name to show.
        what: the rest of a sentence.
        tensor: the name of the tensor that it is about.
    """
    name = file.name if isinstance(file, Path) else file
    where = f"{name}:" if tensor is None else f"{name}: tensor {tensor!r}"
    return Problem(check, name, tensor, f"{where} {what}")


def problem_of(check: Check, folder: Path, error: CheckpointError) -> Problem:
    """Say what a reader said of a file, without the path of the folder."""
    message = str(error).replace(f"{folder}/", "")
    return Problem(check, message.partition(":")[0], None, message)
