"""Files that are whole or absent: written beside, synced, renamed. And text files as users name them."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tune_recipes.errors import UserError


def read_text(path: Path, label: str = "") -> str:
    """Read a text file that the user named.

    Args:
        path: The file.
        label: How messages call it, if not by its path.

    Raises:
        UserError: It cannot be read, or is not UTF-8.
    """
    label = label or str(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{label}:{line}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{label}: cannot be read: {error.strerror}") from None


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that its name never holds half of it, also after a power cut."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the system write to the disk which names a folder holds."""
    with suppress(OSError):  # not every system can sync a folder
        folder = os.open(path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented, whole or absent; a number that JSON has not (nan, inf) becomes null."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def remove_folder(path: Path) -> None:
    """Delete a folder so that its name never stands for half of it."""
    doomed = path.with_name(f".{path.name}.doomed")
    path.rename(doomed)
    shutil.rmtree(doomed)
