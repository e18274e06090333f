"""The source files of a conversion, read by several threads."""

import os
from pathlib import Path
from threading import Lock

import numpy as np

from tune_checkpoint.arrays import num_rows, strided
from tune_checkpoint.errors import CorruptFileError, ReadFailedError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import TensorSlice


class Sources:
    """Open files. They are read and not mapped: a disk that fails gives an error then, not a dead process."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}
        self._mapped: dict[str, MappedFile] = {}
        self._lock = Lock()

    def __enter__(self) -> "Sources":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def descriptor(self, path: str) -> int:
        """The file, opened once."""
        with self._lock:
            if path not in self._descriptors:
                try:
                    self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise ReadFailedError(f"{path}: cannot be read: {error.strerror}") from error
            return self._descriptors[path]

    def read(self, tensor: TensorSlice, start: int, size: int) -> np.ndarray:
        """Bytes of a tensor, as uint8.

        Args:
            tensor: whose elements lie one behind the other.
            start: the first byte, from the start of the tensor.
            size: how many.

        Raises:
            CorruptFileError: the file has been shortened.
            ReadFailedError: the system cannot read it.
        """
        content = np.empty(size, np.uint8)
        descriptor, offset, done = self.descriptor(tensor.path), tensor.offset + start, 0
        while done < size:
            try:
                count = os.preadv(descriptor, [content[done:].data], offset + done)
            except OSError as error:
                raise ReadFailedError(
                    f"{tensor.path}: tensor {tensor.name!r} cannot be read at byte {offset + done}: "
                    f"{error.strerror}"
                ) from error
            if not count:
                raise CorruptFileError(
                    f"{tensor.path}: ends at byte {os.fstat(descriptor).st_size}, before the end of tensor "
                    f"{tensor.name!r}; it has become shorter since the conversion began"
                )
            done += count
        return content

    def rows(self, tensor: TensorSlice, start: int, stop: int) -> np.ndarray:
        """Rows of a tensor, as (rows, bytes of a row) uint8."""
        if tensor.strides is None:
            row_bytes = tensor.nbytes // num_rows(tensor)
            return self.read(tensor, start * row_bytes, (stop - start) * row_bytes).reshape(-1, row_bytes)
        with self._lock:
            if tensor.path not in self._mapped:
                self._mapped[tensor.path] = MappedFile(Path(tensor.path))
        values = strided(tensor, self._mapped[tensor.path].view)
        index = np.unravel_index(np.arange(start, stop), tensor.shape[:-1] or tensor.shape)
        rows = np.ascontiguousarray(values[index])
        return rows.reshape(stop - start, -1).view(np.uint8)
