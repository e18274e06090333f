"""A file that grows while it arrives, and the hash of what is there of it."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import TracebackType

from tune_hub.listing import Digest, RepoFile

CHUNK_BYTES = 1 << 20


class Stopped(Exception):
    """Another file has failed, or the user has had enough."""


class GrowingFile:
    """The part of a file that is here. A process goes on with what another left."""

    def __init__(self, path: Path, file: RepoFile, moved: Callable[[int], None], stop: Event) -> None:
        """Open what is there and hash it.

        Args:
            path: where it grows.
            file: what it will be.
            moved: told how many bytes came, or (negative) were thrown away.
            stop: set when it should end.
        """
        self._file, self._moved, self._stop = file, moved, stop
        self._out = path.open("ab")
        self.size = self._out.tell()
        if self.size > file.size:  # somebody else wrote to it
            self._out.truncate(file.size)
            self.size = file.size
        try:
            self._digest = self._hashed(path)
        except BaseException:
            self._out.close()
            raise

    def __enter__(self) -> "GrowingFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are there."""
        return self.size >= self._file.size

    @property
    def is_right(self) -> bool:
        """Whether what is there is the file."""
        return self.size == self._file.size and self._digest.hexdigest() == self._file.checksum

    def add(self, chunk: bytes) -> None:
        """Go on, up to the size that the file will have: a server that sends more sends something else."""
        if self._stop.is_set():
            raise Stopped
        chunk = chunk[: self._file.size - self.size + 1]
        self._out.write(chunk)
        self._out.flush()  # nothing is left to be written when somebody else goes on
        self._digest.update(chunk)
        self.size += len(chunk)
        self._moved(len(chunk))

    def begin_anew(self) -> None:
        """Throw away what is there."""
        self._moved(-self.size)
        self._out.truncate(0)
        self.size = 0
        self._digest = self._file.new_digest()

    def flush(self) -> None:
        """Have it on the disk."""
        self._out.flush()
        os.fsync(self._out.fileno())

    def _hashed(self, path: Path) -> Digest:
        digest = self._file.new_digest()
        with path.open("rb") as begun:
            while chunk := begun.read(CHUNK_BYTES):
                if self._stop.is_set():
                    raise Stopped
                digest.update(chunk)
        return digest
