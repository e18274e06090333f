"""From a tensor's bytes to numpy arrays, by rows."""

from collections.abc import Iterator
from math import prod

import numpy as np

from tune_checkpoint.dtypes import numpy_dtype
from tune_checkpoint.gguf.types import BLOCKS
from tune_checkpoint.plan import TensorSlice

BLOCK_BYTES = 1 << 20
"""Bytes of decoded values worked on at a time: measured fastest where the temporaries stay in the cache."""


def byte_rows(tensor: TensorSlice, view: memoryview) -> np.ndarray:
    """A tensor's bytes in the mapped file as (rows, bytes of a row) uint8, without a copy.

    A vector is a column of rows of one element, so that its elements can be reordered as a matrix's rows are;
    a quantised one is a single row, since a block cannot be split.
    """
    if not prod(tensor.shape):
        return np.empty((0, 0), np.uint8)
    rows = prod(tensor.shape[:-1]) if len(tensor.shape) > 1 else _vector_rows(tensor)
    return np.frombuffer(view, np.uint8, tensor.nbytes, tensor.offset).reshape(rows, -1)


def _vector_rows(tensor: TensorSlice) -> int:
    return 1 if tensor.dtype in BLOCKS or not tensor.shape else tensor.shape[0]


def row_blocks(num_rows: int, row_bytes: int) -> Iterator[slice]:
    """Ranges of rows of about BLOCK_BYTES each, at least one row."""
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def decode(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Byte rows to values: a view of them, or new float32 of a quantised type."""
    if dtype in BLOCKS:
        from tune_checkpoint.gguf.dequantise import dequantise_rows

        return dequantise_rows(rows, dtype)
    return rows.view(numpy_dtype(dtype))


def to_numpy(tensor: TensorSlice, view: memoryview) -> np.ndarray:
    """A whole tensor: a read-only view of the file, or new float32 of a quantised type."""
    if tensor.dtype not in BLOCKS:
        dtype = numpy_dtype(tensor.dtype)
        return np.frombuffer(view, dtype, prod(tensor.shape), tensor.offset).reshape(tensor.shape)
    rows = byte_rows(tensor, view)
    values = np.empty((rows.shape[0], prod(tensor.shape) // rows.shape[0]), np.float32)
    for block in row_blocks(rows.shape[0], values.strides[0]):
        values[block] = decode(rows[block], tensor.dtype)
    return values.reshape(tensor.shape)
