"""The source files of a conversion, read by several threads."""

import os
import zlib
from math import prod
from threading import Lock

import numpy as np

from tune_checkpoint.arrays import num_rows
from tune_checkpoint.errors import CorruptFileError, ReadFailedError, UnsupportedCheckpointError
from tune_checkpoint.plan import TensorSlice

SPAN_BYTES = 1 << 24
"""So much is read for a few rows, where their elements do not lie one behind the other."""


class Sources:
    """Open files. They are read and not mapped: a disk that fails gives an error then, not a dead process."""

    def __init__(self, *, compares: bool = False) -> None:
        """Open nothing yet.

        Args:
            compares: hold what is read of a tensor from its start to its end against the CRC-32 that the file
                states.
        """
        self._compares = compares
        self._sums: dict[TensorSlice, tuple[int, int]] = {}
        self.damaged: list[TensorSlice] = []
        """Tensors that are not what their file says of them."""
        self._descriptors: dict[str, int] = {}
        self._lock = Lock()
        self.scattered = Lock()
        """Held by the one tensor whose elements are gathered from all over its span, which is in memory."""
        self._span: tuple[TensorSlice, np.ndarray] | None = None

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
            tensor: which.
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
        if self._compares and tensor.crc32 is not None:
            self._compare(tensor, start, content)
        return content

    def _compare(self, tensor: TensorSlice, start: int, content: np.ndarray) -> None:
        """Go on with the checksum of a tensor. One thread reads it, from its start to its end if at all."""
        end, crc = self._sums.get(tensor, (0, 0)) if start else (0, 0)
        if end != start:
            return
        end, crc = start + content.nbytes, zlib.crc32(content.data, crc)
        self._sums[tensor] = end, crc
        if end == tensor.nbytes and crc != tensor.crc32 and tensor not in self.damaged:
            self.damaged.append(tensor)

    def rows(self, tensor: TensorSlice, start: int, stop: int) -> np.ndarray:
        """Rows of a tensor, as (rows, bytes of a row) uint8.

        Where their elements lie apart (`strides`), the caller holds `scattered`.
        """
        if tensor.strides is None:
            row_bytes = tensor.nbytes // num_rows(tensor)
            return self.read(tensor, start * row_bytes, (stop - start) * row_bytes).reshape(-1, row_bytes)
        return self._gathered(tensor, *_places(tensor, start, stop))

    def _gathered(self, tensor: TensorSlice, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The elements at these places, counted in elements from the start of the tensor."""
        item = tensor.nbytes // prod(tensor.shape)
        if _span(tensor) * item <= 2 * tensor.nbytes + SPAN_BYTES:
            return self._whole(tensor, item)[rows[:, None] + columns].view(np.uint8)
        first, last = int(rows.min()), int(rows.max() + columns[-1]) + 1
        if (last - first) * item <= SPAN_BYTES:
            elements = self.read(tensor, first * item, (last - first) * item).view(f"<u{item}")
            return elements[rows[:, None] + columns - first].view(np.uint8)
        if len(rows) > 1:
            parts = np.split(rows, [len(rows) // 2])
            return np.concatenate([self._gathered(tensor, part, columns) for part in parts])
        raise UnsupportedCheckpointError(
            f"{tensor.path}: tensor {tensor.name!r} has the elements of a row scattered over "
            f"{(last - first) * item} bytes; save it again as `tensor.contiguous()`"
        )

    def _whole(self, tensor: TensorSlice, item: int) -> np.ndarray:
        """Everything from the first to the last element, kept until another tensor's turn."""
        if self._span is None or self._span[0] is not tensor:
            self._span = None
            self._span = (tensor, self.read(tensor, 0, _span(tensor) * item).view(f"<u{item}"))
        return self._span[1]


def _span(tensor: TensorSlice) -> int:
    """How many elements lie between the first and the last of a tensor, both included."""
    assert tensor.strides is not None
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))


def _places(tensor: TensorSlice, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Where rows begin, and where the elements of a row are from there."""
    assert tensor.strides is not None
    leading, strides = tensor.shape[:-1], tensor.strides[:-1]
    columns = np.arange(tensor.shape[-1]) * tensor.strides[-1]
    if not leading:  # a vector is a column
        return columns[start:stop], np.zeros(1, np.int64)
    index = np.unravel_index(np.arange(start, stop), leading)
    rows = np.zeros(stop - start, np.int64)
    for places, stride in zip(index, strides, strict=True):
        rows += places * stride
    return rows, columns
