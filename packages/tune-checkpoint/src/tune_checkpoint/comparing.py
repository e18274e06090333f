"""How far the values of two tensors are apart, in memory of a few blocks."""

from math import prod

import numpy as np
from msgspec import Struct

from tune_checkpoint.dtypes import ITEM_BYTES, numpy_dtype
from tune_checkpoint.execute import tensor_blocks
from tune_checkpoint.plan import TensorPlan
from tune_checkpoint.sources import Sources
from tune_checkpoint.write import Meter

BLOCK_ELEMENTS = 1 << 16
"""Elements compared at a time: measured fastest where the temporaries stay in the cache."""
READ_BYTES = 1 << 20
"""Bytes compared at a time where they are not decoded."""


class Gap(Struct):
    """How far apart two tensors are. Equal are values that compare so, and NaN with NaN."""

    num_different: int = 0
    max_abs: float = 0.0
    """The largest |a - b|; infinite where one is."""
    max_rel: float = 0.0
    """The largest |a - b| / max(|a|, |b|), 2 at most; infinite where one is."""
    num_nan: int = 0
    """Elements that are NaN in one and not in the other; these have no part in the maxima."""


def compare(a: TensorPlan, b: TensorPlan, sources: Sources, meter: Meter) -> Gap:
    """Compare two tensors of one shape. Where their bytes are the same, their values are not looked at.

    Raises:
        CheckpointError: a file cannot be read.
    """
    gap = Gap()
    if _are_made_alike(a, b) and _have_same_bytes(a, b, sources):
        meter.add(a.nbytes + b.nbytes)
        return gap
    left, right = _Stream(a, sources), _Stream(b, sources)
    total = prod(a.shape)
    for start in range(0, total, BLOCK_ELEMENTS):
        count = min(BLOCK_ELEMENTS, total - start)
        x, y = left.take(count), right.take(count)
        meter.add(x.nbytes + y.nbytes)
        if a.dtype != b.dtype or not np.array_equal(x, y):
            _add(gap, x.view(numpy_dtype(a.dtype)), y.view(numpy_dtype(b.dtype)))
    return gap


class _Stream:
    """The elements of a tensor, as many at a time as are asked for."""

    def __init__(self, tensor: TensorPlan, sources: Sources) -> None:
        self._blocks = tensor_blocks(tensor, sources)
        self._item = ITEM_BYTES[tensor.dtype]
        self._rest = np.empty(0, np.uint8)

    def take(self, count: int) -> np.ndarray:
        """The bytes of the next elements."""
        wanted = count * self._item
        parts, have = [self._rest], self._rest.nbytes
        while have < wanted:
            parts.append(np.frombuffer(next(self._blocks), np.uint8))
            have += parts[-1].nbytes
        parts = [part for part in parts if part.nbytes]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self._rest = joined[wanted:]
        return joined[:wanted]


def _are_made_alike(a: TensorPlan, b: TensorPlan) -> bool:
    """Whether equal sources make equal tensors, by operations that are worth avoiding."""
    alike = [[(source.dtype, source.shape) for source in tensor.sources] for tensor in (a, b)]
    return bool(a.ops) and (a.ops, a.axis, a.dtype, alike[0]) == (b.ops, b.axis, b.dtype, alike[1])


def _have_same_bytes(a: TensorPlan, b: TensorPlan, sources: Sources) -> bool:
    for x, y in zip(a.sources, b.sources, strict=True):
        if x.strides is not None or y.strides is not None:
            return False
        for start in range(0, x.nbytes, READ_BYTES):
            size = min(READ_BYTES, x.nbytes - start)
            if not np.array_equal(sources.read(x, start, size), sources.read(y, start, size)):
                return False
    return True


def _add(gap: Gap, a: np.ndarray, b: np.ndarray) -> None:
    """Take the differences of two runs of elements into account."""
    if a.dtype.kind == "c":  # the parts of complex numbers are compared as elements of their own
        a, b = a.view("<f4"), b.view("<f4")
    common = _common_type(a.dtype, b.dtype)
    differs = a.astype(common, copy=False) != b.astype(common, copy=False)
    if not differs.any():
        return
    x, y = a[differs].astype(np.float64), b[differs].astype(np.float64)
    nan_x, nan_y = np.isnan(x), np.isnan(y)
    gap.num_different += x.size - int((nan_x & nan_y).sum())
    if nan_x.any() or nan_y.any():
        gap.num_nan += int((nan_x ^ nan_y).sum())
        x, y = x[~(nan_x | nan_y)], y[~(nan_x | nan_y)]
    if not x.size:
        return
    with np.errstate(over="ignore"):
        apart = np.abs(x - y)
    largest = np.maximum(np.abs(x), np.abs(y))
    gap.max_abs = max(gap.max_abs, float(apart.max()))
    if np.isinf(gap.max_abs):
        gap.max_rel = np.inf
    else:
        gap.max_rel = max(gap.max_rel, float((apart / largest).max()))


def _common_type(a: np.dtype, b: np.dtype) -> np.dtype:
    """A type that has every value of both; float64, which has not all whole numbers, where there is none."""
    if a == b and a.kind in "fiub":
        return a
    # The floats of ml_dtypes, which have the kind V, are narrow.
    is_narrow = all((dtype.itemsize < 4 and dtype.kind in "fV") or dtype == np.float32 for dtype in (a, b))
    return np.dtype(np.float32 if is_narrow else np.float64)
