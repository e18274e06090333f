"""From a tensor's bytes to numpy arrays."""

from math import prod
from typing import Protocol

import numpy as np

from tune_checkpoint.dtypes import ITEM_BYTES, numpy_dtype
from tune_checkpoint.gguf.types import BLOCKS
from tune_checkpoint.plan import TensorSlice

DEQUANTISED_ROWS = 1 << 18
"""Values of a quantised tensor that are expanded at a time."""


class Shaped(Protocol):
    """What has a type and a shape."""

    @property
    def dtype(self) -> str:
        """As safetensors spells it, or a block type of GGUF."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Outermost dimension first."""
        ...


def num_rows(tensor: Shaped) -> int:
    """How many rows a tensor has, the last dimension being the row.

    A vector is a column of rows of one element, so that its elements can be reordered as a matrix's rows are;
    a quantised one is a single row, since a block cannot be split.
    """
    if not prod(tensor.shape):
        return 0
    if len(tensor.shape) > 1:
        return prod(tensor.shape[:-1])
    return 1 if tensor.dtype in BLOCKS or not tensor.shape else tensor.shape[0]


def decode(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Byte rows to values: a view of them, or new float32 of a quantised type."""
    if dtype in BLOCKS:
        from tune_checkpoint.gguf.dequantise import dequantise_rows

        return dequantise_rows(rows, dtype)
    return rows.view(numpy_dtype(dtype))


def strided(tensor: TensorSlice, view: memoryview) -> np.ndarray:
    """A tensor whose elements are not in C order, as unsigned integers of their size: a view of the file."""
    assert tensor.strides is not None
    item = ITEM_BYTES[tensor.dtype]
    strides = [stride * item for stride in tensor.strides]
    return np.ndarray(tensor.shape, f"<u{item}", view, tensor.offset, strides)


def to_numpy(tensor: TensorSlice, view: memoryview) -> np.ndarray:
    """A whole tensor: a read-only view of the file, or new float32 of a quantised type."""
    if tensor.strides is not None:
        return strided(tensor, view).view(numpy_dtype(tensor.dtype))
    if tensor.dtype not in BLOCKS:
        dtype = numpy_dtype(tensor.dtype)
        return np.frombuffer(view, dtype, prod(tensor.shape), tensor.offset).reshape(tensor.shape)
    rows = np.frombuffer(view, np.uint8, tensor.nbytes, tensor.offset).reshape(num_rows(tensor), -1)
    values = np.empty((len(rows), prod(tensor.shape) // len(rows)), np.float32)
    step = max(1, DEQUANTISED_ROWS // values.shape[1])
    for start in range(0, len(rows), step):
        values[start : start + step] = decode(rows[start : start + step], tensor.dtype)
    return values.reshape(tensor.shape)
