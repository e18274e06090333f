"""Whether the files are those that a list of checksums was made of.

Source: `sha256sum` of GNU coreutils 9: 64 hexadecimal digits, a space, a space or `*`, the name. A line that
begins with a backslash has a name in which backslash, line feed and carriage return are escaped.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from tune_checkpoint.checks.problems import Problem, problem

MANIFEST = "SHA256SUMS"
LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
MAX_MANIFEST_BYTES = 10_000_000
READ_BYTES = 1 << 22

Sums = dict[str, str]
"""File name -> checksum, in the order of the list."""


def read_manifest(folder: Path) -> tuple[Sums, list[Problem]] | None:
    """The checksums that a folder lists, and what is wrong with the list; None if there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        return {}, [problem("manifest", path, f"has more than {MAX_MANIFEST_BYTES} bytes and was not read")]
    sums: Sums = {}
    problems: list[Problem] = []
    for number, line in enumerate(path.read_bytes().decode(errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line.rstrip("\r"))
        if match is None:
            problems.append(problem("manifest", path, f"line {number} is not a checksum and a file name"))
            continue
        name = (_unescaped(match[3]) if match[1] else match[3]).removeprefix("./")
        if not _stays_inside(name):
            problems.append(
                problem("manifest", path, f"line {number}: {name!r} leads out of the folder; it was not read")
            )
            continue
        if sums.setdefault(name, match[2].lower()) != match[2].lower():
            problems.append(problem("manifest", path, f"line {number} contradicts another about {name!r}"))
    return sums, problems


def check_sum(folder: Path, name: str, expected: str, read: Callable[[int], None]) -> Problem | None:
    """Hash a file. `read` is told of the bytes that are done."""
    path = folder / name
    if path.exists() and not path.is_file():
        return problem("manifest", name, "is no regular file")
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(READ_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                read(count)
    except FileNotFoundError:
        return problem("manifest", name, f"is missing, and {MANIFEST} lists it")
    except OSError as error:
        return problem("manifest", name, f"cannot be read: {error.strerror}")
    if digest.hexdigest() == expected:
        return None
    return problem("manifest", name, f"has changed: its SHA-256 is {digest.hexdigest()}, not {expected}")


def unlisted(files: Iterable[str], sums: Sums) -> list[Problem]:
    """Files of weights that the list leaves out."""
    return [problem("manifest", file, f"is not in {MANIFEST}") for file in files if file not in sums]


def _unescaped(name: str) -> str:
    return re.sub(r"\\([\\nr])", lambda match: {"\\": "\\", "n": "\n", "r": "\r"}[match[1]], name)


def _stays_inside(name: str) -> bool:
    return "\0" not in name and not name.startswith("/") and ".." not in PurePosixPath(name).parts
