"""What can go wrong with a checkpoint, each with a message that says what, where, why and what to do next."""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class CheckpointError(Exception):
    """The base of every error that this package raises on purpose."""

    exit_status: ClassVar[int] = 2
    """How a command ends that meets it: 2 where the input was wrong, 1 where the machine failed."""


class CheckpointNotFoundError(CheckpointError):
    """There is no checkpoint at the path, or the file cannot be opened."""


class CorruptFileError(CheckpointError):
    """A file breaks its format: truncated, out of bounds, contradictory. The message names file and place."""


class UnsupportedCheckpointError(CheckpointError):
    """The checkpoint is sound, but of a kind, architecture or type that this package does not handle."""


class OutputExistsError(CheckpointError):
    """What was to be written is already there."""


class ReadFailedError(CheckpointError):
    """The system refused to read what it could open: a bad disk, a lost network folder."""

    exit_status = 1


class WriteFailedError(CheckpointError):
    """The system refused to write: disk full, permission denied, a read-only folder."""

    exit_status = 1


class VerificationError(CheckpointError):
    """What is on the disk is not what was written."""

    exit_status = 1


@contextmanager
def reading(path: Path | str) -> Generator[None]:
    """Tell what the system refuses in the block as a `ReadFailedError`; of `path`, if it names no other."""
    try:
        yield
    except OSError as error:
        raise ReadFailedError(f"{error.filename or path}: cannot be read: {error.strerror}") from error


@contextmanager
def writing(path: Path | str) -> Generator[None]:
    """Tell what the system refuses in the block as a `WriteFailedError` of `path`."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        hint = "; make room, or choose another disk" if error.errno in DISK_FULL else ""
        raise WriteFailedError(f"{path}: could not be written: {error.strerror}{where}{hint}") from error
