"""What tests of downloads share: the files of a folder, and a download in a process of its own."""

import subprocess
import sys
from pathlib import Path

_DOWNLOAD = """
import sys
from tune_hub import download
print(download(*sys.argv[1:]).fetched_bytes)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Return what lies there by path, without the record and what is not whole."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: content for name, content in found.items() if not name.startswith(".tune-download")}


def begin_download(repository: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a download that prints how many bytes it fetched."""
    command = [sys.executable, "-c", _DOWNLOAD, repository, str(folder)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def partial_bytes(folder: Path) -> int:
    """Return how much lies there that is not whole."""
    return sum(path.stat().st_size for path in (folder / ".tune-download").glob("*"))
