"""A file in the address space, read-only."""

import mmap
import os
import stat
from pathlib import Path

from tune_checkpoint.errors import CheckpointNotFoundError, CorruptFileError

LFS_START = b"version https://git-lfs.github.com/spec/"
"""Source: docs/spec.md of git-lfs, "The Pointer": `version` is the first line."""
PAGE_STARTS = (b"<!doctype html", b"<html")


class MappedFile:
    """A file mapped read-only; `view` takes no memory of its own and lives as long as a slice of it.

    Args:
        path: the file.

    Raises:
        CheckpointNotFoundError: it is not there, is no regular file, or cannot be read.
        CorruptFileError: something else was stored in its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # To open a pipe would else wait for someone to write to it.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise CheckpointNotFoundError(f"{path}: cannot be read: it is no regular file")
                self.size = status.st_size
                # An empty file cannot be mapped.
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as error:
            raise CheckpointNotFoundError(f"{path}: cannot be read: {error.strerror or error}") from error
        self.view = memoryview(content)
        self._check_place()

    def _check_place(self) -> None:
        """Tell what often stands where a large file should, instead of what is wrong with it as such."""
        start = bytes(self.view[:64]).lstrip().lower()
        if start.startswith(LFS_START):
            raise CorruptFileError(
                f"{self.path}: a pointer of git-LFS and not the file itself; fetch that with `git lfs pull`"
            )
        if start.startswith(PAGE_STARTS):
            raise CorruptFileError(
                f"{self.path}: a web page and not the file itself, perhaps one that asks to log in; download "
                "the file again"
            )

    def read(self, offset: int, num_bytes: int, what: str) -> memoryview:
        """The bytes at `offset`, checked against the file's size; `what` names them in the error."""
        if num_bytes < 0 or offset < 0 or offset + num_bytes > self.size:
            raise CorruptFileError(
                f"{self.path}: {what} at byte {offset} takes {num_bytes} bytes, but the file has "
                f"{self.size}; it is truncated or damaged: download or copy it again"
            )
        return self.view[offset : offset + num_bytes]
