"""The folder that a download fills: who writes there, what is whole, and where it came from."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from tune_hub.errors import DiskError, RefusedError
from tune_hub.listing import RepoFile

RECORD = ".tune-download.json"
"""In a downloaded folder: where it came from."""
PARTIAL = ".tune-download"
"""The folder of what is not whole yet. It is gone when all is."""
CHUNK_BYTES = 1 << 20


class Kept(Struct, frozen=True):
    """A file that was whole and checked, and how the system knew it then."""

    checksum: str
    size: int
    mtime_ns: int


class Record(Struct, frozen=True):
    """Where a folder came from."""

    repository: str
    commit: str
    """Of which all files are; empty until they are."""
    files: dict[str, Kept] = {}


@contextmanager
def locked(folder: Path, waiting: Callable[[], None]) -> Generator[None]:
    """Make a folder and be the only download that writes to it; the system lets go of it with the process.

    Args:
        folder: which.
        waiting: called if another download has it, before waiting for that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_record(folder: Path | str) -> Record | None:
    """Where a folder came from, if a download or a conversion of one wrote that down."""
    try:
        return msgspec.json.decode((Path(folder) / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None


def write_record(folder: Path | str, record: Record) -> None:
    """Write down where a folder came from, whole or not at all."""
    path = Path(folder) / RECORD
    beside = path.with_name(f"{RECORD}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def kept(path: Path, checksum: str) -> Kept:
    """Note a file that has just been checked."""
    state = path.stat()
    return Kept(checksum, state.st_size, state.st_mtime_ns)


def is_ours(folder: Path, name: str, record: Record | None) -> bool:
    """Whether a file is what a download put there: nobody has written to it since."""
    noted = record.files.get(name) if record else None
    try:
        state = (folder / name).stat()
    except OSError:
        return False
    return noted is not None and (noted.size, noted.mtime_ns) == (state.st_size, state.st_mtime_ns)


def is_whole(folder: Path, file: RepoFile, record: Record | None) -> bool:
    """Whether a file is there and is what the repository has; read only if nobody noted that before."""
    path = folder / file.path
    try:
        state = path.stat()
    except OSError:
        return False
    if state.st_size != file.size or not path.is_file():
        return False
    if record and is_ours(folder, file.path, record):
        return record.files[file.path].checksum == file.checksum
    return matches(path, file)


def matches(path: Path, file: RepoFile) -> bool:
    """Whether a file holds what the repository has."""
    digest, size = file.new_digest(), 0
    with path.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
    return size == file.size and digest.hexdigest() == file.checksum


def partial_path(folder: Path, file: RepoFile) -> Path:
    """Where a file grows until it is whole. The name says what it will be: no other is gone on with."""
    name = hashlib.sha256(file.path.encode()).hexdigest()[:16]
    return folder / PARTIAL / f"{name}.{file.checksum[:24]}"


def forget_partials(folder: Path, files: Sequence[RepoFile]) -> None:
    """Remove what has begun of files that the repository has no more; the folder too, if nothing is left."""
    wanted = {partial_path(folder, file).name for file in files}
    for path in (folder / PARTIAL).glob("*"):
        if path.name not in wanted:
            path.unlink()
    with suppress(OSError):
        (folder / PARTIAL).rmdir()


def put_in_place(partial: Path, folder: Path, file: RepoFile) -> Path:
    """Give a whole file its name."""
    target = target_path(folder, file.path)
    partial.replace(target)
    return target


def target_path(folder: Path, name: str) -> Path:
    """Make the folders above a file; the errors are those of `check_place`."""
    check_place(folder, name)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return folder / name


def check_place(folder: Path, name: str) -> None:
    """Make sure that a file can be put where it belongs, and stays in the folder.

    Raises:
        RefusedError: a folder above it is a link, which may lead elsewhere.
        DiskError: a file stands where a folder must be, or a folder where the file must be.
    """
    above = folder
    for part in name.split("/")[:-1]:
        above = above / part
        if above.is_symlink():
            raise RefusedError(
                f"{above}: is a link, and what is downloaded must stay in {folder}\n  remove it, or choose "
                "another folder with --output-dir"
            )
        if above.exists() and not above.is_dir():
            raise DiskError(f"{above}: is a file where a folder must be\n  move it away")
    if (folder / name).is_dir():
        raise DiskError(f"{folder / name}: is a folder where a file must be\n  move it away")
