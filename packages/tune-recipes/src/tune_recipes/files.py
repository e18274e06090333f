"""Files that are whole or absent: written beside, synced, renamed."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any


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
    with suppress(OSError):  # not every system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented, whole or absent."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def remove_folder(path: Path) -> None:
    """Delete a folder so that its name never stands for half of it."""
    doomed = path.with_name(f".{path.name}.doomed")
    path.rename(doomed)
    shutil.rmtree(doomed)
