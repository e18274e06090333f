"""Carries a plan out: each output tensor as a stream of blocks of rows, in memory of a few such blocks."""

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import numpy as np

from tune_checkpoint.arrays import byte_rows, decode, row_blocks
from tune_checkpoint.dtypes import ITEM_BYTES, numpy_dtype
from tune_checkpoint.errors import UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import Cast, Op, Plan, Progress, TensorPlan, TensorSlice, UnpermuteHeads
from tune_checkpoint.shards import TensorOut


def planned_tensors(plan: Plan, progress: Progress | None = None) -> Iterator[TensorOut]:
    """The plan's output tensors, ready to be written; each is computed when its turn has come.

    Args:
        plan: what to make.
        progress: called after every block with the bytes done and the bytes in all.
    """
    files: dict[str, MappedFile] = {}
    report = _counted(progress, plan.nbytes)
    for tensor in plan.tensors:
        for source in tensor.sources:
            if source.path not in files:
                files[source.path] = MappedFile(Path(source.path))

        def read(tensor: TensorPlan = tensor) -> Iterator[memoryview]:
            for block in tensor_blocks(tensor, files):
                yield block
                report(block.nbytes)

        yield TensorOut(tensor.name, tensor.dtype, tensor.shape, read)


def tensor_blocks(tensor: TensorPlan, files: dict[str, MappedFile]) -> Iterator[memoryview]:
    """The bytes of one output tensor, a block of rows at a time."""
    for source in tensor.sources:
        rows = byte_rows(source, files[source.path].view)
        num_rows = rows.shape[0]
        order = _row_order(tensor.ops, num_rows)
        row_bytes = prod(source.shape) // max(1, num_rows) * ITEM_BYTES[tensor.dtype]
        for block in row_blocks(num_rows, row_bytes):
            # A reordered block is gathered before it is decoded: quantised blocks lie within rows.
            taken = rows[block] if order is None else rows[order[block]]
            yield _computed(tensor, source, taken).reshape(-1).view(np.uint8).data


def unpermute_order(num_rows: int, num_heads: int) -> np.ndarray:
    """For each row of a Hugging Face query or key projection, the row of llama.cpp's that it is.

    Source: `LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py, inverted.
    """
    return np.arange(num_rows).reshape(num_heads, num_rows // num_heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _counted(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = 0

    def report(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress is not None:
            progress(done, total)

    return report


def _row_order(ops: tuple[Op, ...], num_rows: int) -> np.ndarray | None:
    if ops and isinstance(ops[0], UnpermuteHeads):
        return unpermute_order(num_rows, ops[0].num_heads)
    return None


def _computed(tensor: TensorPlan, source: TensorSlice, rows: np.ndarray) -> np.ndarray:
    """The output values of some rows, or the rows themselves where the plan leaves the elements alone."""
    if all(isinstance(op, UnpermuteHeads) for op in tensor.ops):
        return rows
    values = decode(rows, source.dtype)
    for op in tensor.ops:
        if isinstance(op, Cast):
            values = _cast(tensor, values, op.dtype)
    return values


def _cast(tensor: TensorPlan, values: np.ndarray, dtype: str) -> np.ndarray:
    try:
        with np.errstate(over="raise"):
            return values.astype(numpy_dtype(dtype))
    except FloatingPointError as error:
        source = tensor.sources[0]
        raise UnsupportedCheckpointError(
            f"{source.path}: tensor {source.name!r} holds values beyond the range of {dtype}, "
            "which would become infinite; convert with dtype bf16 or fp32"
        ) from error
