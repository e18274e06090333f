"""Makes output tensors as a plan says: each as a stream of blocks, in memory of a few such blocks."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from math import lcm, prod

import numpy as np

from tune_checkpoint.arrays import decode, num_rows
from tune_checkpoint.dtypes import ITEM_BYTES, numpy_dtype
from tune_checkpoint.errors import UnsupportedCheckpointError
from tune_checkpoint.peft.steps import Step, merge_step
from tune_checkpoint.plan import Cast, Dequantise, Merge, Op, Quantise, ReorderHeads, TensorPlan, TensorSlice
from tune_checkpoint.sources import Sources

BLOCK_BYTES = 1 << 20
"""Bytes of decoded values worked on at a time: measured fastest where the temporaries stay in the cache."""
WIDER = {
    "F16": "convert to bf16 or fp32 instead",
    "BF16": "convert to fp32 instead",
    "F32": "keep the type that they have",
}
"""What to do where a type has not the range."""
COPY_BYTES = 1 << 22
"""Bytes copied at a time where nothing is computed."""


def tensor_blocks(tensor: TensorPlan, sources: Sources) -> Iterator[memoryview]:
    """The bytes of one output tensor, a block at a time."""
    if tensor.content:
        yield memoryview(tensor.content)
        return
    if copied := copied_ranges(tensor):
        for source in copied:
            for start in range(0, source.nbytes, COPY_BYTES):
                size = min(COPY_BYTES, source.nbytes - start)
                yield sources.read(source, start, size).data
        return
    is_scattered = any(source.strides is not None for source in tensor.inputs)
    with sources.scattered if is_scattered else nullcontext():
        steps: list[Step] = []
        for op in tensor.ops:
            steps.append(_step(op, tensor, sources, tuple(steps)))
        for values in _values(tensor, sources, steps):
            yield np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def copied_ranges(tensor: TensorPlan) -> tuple[TensorSlice, ...]:
    """The sources, if their bytes one behind the other are the output; else none."""
    in_order = all(source.strides is None for source in tensor.sources)
    side_by_side = tensor.axis == 1 and len(tensor.sources) > 1
    return tensor.sources if in_order and not side_by_side and not tensor.ops else ()


def reordered(rows: np.ndarray, op: ReorderHeads, head_rows: int) -> np.ndarray:
    """Whole heads, each with its rows in the other order.

    Args:
        rows: (heads x head_rows, ...).
        op: which order is wanted.
        head_rows: rows of a head, an even number.

    Source: `permute` of transformers' convert_llama_weights_to_hf.py, and its inverse.
    """
    split = (-1, head_rows // 2, 2) if op.to == "halves" else (-1, 2, head_rows // 2)
    return rows.reshape(*split, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _values(tensor: TensorPlan, sources: Sources, steps: Sequence[Step]) -> Iterator[np.ndarray]:
    """Blocks of rows after some of the steps that make the tensor."""
    for start, stop in _row_ranges(tensor):
        values = _source_rows(tensor, sources, start, stop)
        for step in steps:
            values = step(values, start)
        yield values


def _step(op: Op, tensor: TensorPlan, sources: Sources, before: Sequence[Step]) -> Step:
    if not isinstance(op, Merge):
        return lambda values, _: _applied(op, tensor, values)
    merged = merge_step(op, sources, lambda: _values(tensor, sources, before))
    return lambda values, start: merged(_decoded(tensor, values), start)


def _row_ranges(tensor: TensorPlan) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about BLOCK_BYTES of values each, and of whole heads where they are reordered."""
    total = sum(num_rows(source) for source in tensor.sources) if tensor.axis == 0 else num_rows(tensor)
    if not total:
        return
    widest = max(4, ITEM_BYTES.get(tensor.sources[0].dtype, 4))
    step = max(1, BLOCK_BYTES // (prod(tensor.shape) // total * widest))
    heads = lcm(*(total // op.num_heads for op in tensor.ops if isinstance(op, ReorderHeads)))
    step = -(-step // heads) * heads
    for start in range(0, total, step):
        yield start, min(start + step, total)


def _source_rows(tensor: TensorPlan, sources: Sources, start: int, stop: int) -> np.ndarray:
    """Rows of all sources together, as (rows, bytes of a row) uint8."""
    if tensor.axis == 1:
        return np.concatenate([sources.rows(source, start, stop) for source in tensor.sources], axis=1)
    parts: list[np.ndarray] = []
    for source in tensor.sources:
        size = num_rows(source)
        if start < size and stop > 0:
            parts.append(sources.rows(source, max(start, 0), min(stop, size)))
        start, stop = start - size, stop - size
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _applied(op: Op, tensor: TensorPlan, values: np.ndarray) -> np.ndarray:
    if isinstance(op, ReorderHeads):
        return reordered(values, op, num_rows(tensor) // op.num_heads)
    values = _decoded(tensor, values)
    if isinstance(op, Cast):
        return _cast(tensor, values, op.dtype)
    if isinstance(op, Quantise):
        from tune_checkpoint.gguf.quantise import quantise_rows

        source = tensor.sources[0]
        return quantise_rows(values, op.dtype, f"{source.path}: tensor {source.name!r}")
    assert isinstance(op, Dequantise)
    return values


def _decoded(tensor: TensorPlan, values: np.ndarray) -> np.ndarray:
    """Values, of what may still be the bytes of the sources."""
    return decode(values, tensor.sources[0].dtype) if values.dtype == np.uint8 else values


def _cast(tensor: TensorPlan, values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # numpy tells of its own types alone, and not of ml_dtypes'
        rounded = values.astype(numpy_dtype(dtype))
    if np.isfinite(values[_infinite(rounded)].astype(np.float64)).any():
        source = tensor.sources[0]
        raise UnsupportedCheckpointError(
            f"{source.path}: tensor {source.name!r} holds values beyond the range of {dtype}, "
            f"which would become infinite; {WIDER[dtype]}"
        )
    return rounded


def _infinite(values: np.ndarray) -> np.ndarray:
    """Which values are infinite, by their bits: several times as fast as asking for each."""
    if values.dtype.itemsize != 2:
        return np.isinf(values)
    exponent = 0x7C00 if values.dtype == np.float16 else 0x7F80
    return (values.view(np.uint16) & 0x7FFF) == exponent
