"""The arithmetic of a merge, on blocks of rows. Values are F32, or F64 where the model's are."""

from collections.abc import Callable, Iterable
from math import isqrt

import numpy as np

from tune_checkpoint.arrays import decode
from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.plan import AddLowRank, Merge, SetNorms, SetRows, TensorSlice
from tune_checkpoint.sources import Sources

TILE = 1 << 18
"""Multiplications that OpenBLAS does not share out over threads of its own, which would wait for each other.
Source: SMP_THRESHOLD_MIN and GEMM_MULTITHREAD_THRESHOLD in its interface/gemm.c."""

Step = Callable[[np.ndarray, int], np.ndarray]
"""Makes the next values of some rows; the number is the first row's."""


def merge_step(op: Merge, sources: Sources, before: Callable[[], Iterable[np.ndarray]]) -> Step:
    """Read what an operation needs of an adapter.

    Args:
        op: what is to be done.
        sources: where the adapter is read.
        before: the blocks of values that the operation will get, for what depends on all of them.
    """
    if isinstance(op, AddLowRank):
        return _add_low_rank(op, sources)
    if isinstance(op, SetRows):
        return _set_rows(op, sources)
    return _set_row_norms(op, sources) if op.axis == 0 else _set_column_norms(op, sources, before)


def _add_low_rank(op: AddLowRank, sources: Sources) -> Step:
    columns = _read(op.columns, sources, 0, op.columns.shape[0])

    def add(values: np.ndarray, start: int) -> np.ndarray:
        with np.errstate(all="ignore"):  # what comes of it is looked at below, on every machine alike
            added = product(_read(op.rows, sources, start, start + len(values)), columns)
            added *= op.scale
        if not np.isfinite(added).all():
            raise CorruptFileError(
                f"{op.rows.path}: {op.rows.name!r} times {op.columns.name!r} goes beyond what F32 can hold: "
                "the training of this adapter failed; use an earlier checkpoint of it"
            )
        return _wide(values) + added

    return add


def product(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Multiply two matrices in this thread alone: its siblings work on other tensors.

    Args:
        rows: (R, rank) float32.
        columns: (rank, C) float32.
    """
    rank = len(columns)
    height = min(len(rows), max(1, isqrt(TILE // rank)))
    width = max(1, TILE // (rank * height))
    result = np.empty((len(rows), columns.shape[1]), np.float32)
    for top in range(0, len(rows), height):
        for left in range(0, columns.shape[1], width):
            tile = np.s_[top : top + height, left : left + width]
            np.matmul(rows[tile[0]], columns[:, tile[1]], out=result[tile])
    return result


def _set_rows(op: SetRows, sources: Sources) -> Step:
    places = np.array(op.rows, np.int64)
    rows = _read(op.values, sources, 0, len(places))

    def put(values: np.ndarray, start: int) -> np.ndarray:
        is_here = (places >= start) & (places < start + len(values))
        result = np.array(_wide(values))
        result[places[is_here] - start] = rows[is_here]
        return result

    return put


def _set_row_norms(op: SetNorms, sources: Sources) -> Step:
    norms = _read(op.norms, sources, 0, op.norms.shape[0])

    def scale(values: np.ndarray, start: int) -> np.ndarray:
        present = np.linalg.norm(_wide(values), axis=1, keepdims=True)
        return values * _ratio(norms[start : start + len(values)], present)

    return scale


def _set_column_norms(op: SetNorms, sources: Sources, before: Callable[[], Iterable[np.ndarray]]) -> Step:
    squares = np.zeros(op.norms.shape[0])
    for block in before():
        squares += np.square(block, dtype=np.float64).sum(axis=0)
    norms = _read(op.norms, sources, 0, op.norms.shape[0]).T
    factors = _ratio(norms, np.sqrt(squares).astype(np.float32)[None])
    return lambda values, _: _wide(values) * factors


def _ratio(wanted: np.ndarray, present: np.ndarray) -> np.ndarray:
    """What lengths must be multiplied by; nothing makes zeros longer."""
    return np.divide(wanted, present, out=np.zeros_like(present), where=present != 0)


def _wide(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)


def _read(tensor: TensorSlice, sources: Sources, start: int, stop: int) -> np.ndarray:
    """Rows of an adapter's tensor, as float32; a vector is a column."""
    return decode(sources.rows(tensor, start, stop), tensor.dtype).astype(np.float32, copy=False)
