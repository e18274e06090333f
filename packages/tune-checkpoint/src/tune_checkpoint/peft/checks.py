"""Is there anything in an adapter, and does it change anything? Reads values, and so brings numpy."""

from collections.abc import Iterable, Iterator

import numpy as np

from tune_checkpoint.arrays import decode
from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.execute import tensor_blocks
from tune_checkpoint.plan import Plan, TensorPlan, TensorSlice
from tune_checkpoint.planning import planned
from tune_checkpoint.sources import Sources


def zero_tensors(tensors: Iterable[TensorSlice]) -> set[str]:
    """Read tensors once, to see that they are sound.

    Returns:
        The names of those that are zero all over.

    Raises:
        CorruptFileError: one holds NaN or an infinite value.
    """
    zero: set[str] = set()
    with Sources() as sources:
        for tensor in tensors:
            is_zero = True
            for block in tensor_blocks(planned(tensor.name, [tensor]), sources):
                values = decode(np.frombuffer(block, np.uint8), tensor.dtype)
                if not np.isfinite(values).all():
                    raise CorruptFileError(
                        f"{tensor.path}: tensor {tensor.name!r} holds NaN or infinite values: the training "
                        "of this adapter failed; use an earlier checkpoint of it"
                    )
                is_zero = is_zero and not values.any()
            if is_zero:
                zero.add(tensor.name)
    return zero


def changes_anything(before: Plan, after: Plan) -> bool:
    """Say whether any weight comes out otherwise, byte for byte. Reads as far as the first that does."""
    old = {tensor.name: tensor for tensor in before.tensors}
    changed = [tensor for tensor in after.tensors if old.get(tensor.name) != tensor]
    # What is computed first: it differs soon. A copy may be the same to its end.
    changed.sort(key=lambda tensor: -len(tensor.ops))
    with Sources() as sources:
        return any(_differs(old.get(tensor.name), tensor, sources) for tensor in changed)


def is_same(one: TensorPlan, other: TensorPlan) -> bool:
    """Say whether two tensors come out the same, byte for byte."""
    with Sources() as sources:
        return not _differs(one, other, sources)


def _differs(one: TensorPlan | None, other: TensorPlan, sources: Sources) -> bool:
    if one is None or (one.dtype, one.shape) != (other.dtype, other.shape):
        return True
    return not _same(tensor_blocks(one, sources), tensor_blocks(other, sources))


def _same(one: Iterator[memoryview], other: Iterator[memoryview]) -> bool:
    """Compare two streams of bytes, however they are cut into blocks."""
    end = memoryview(b"")
    left = right = end
    while True:
        left, right = left or next(one, end), right or next(other, end)
        size = min(len(left), len(right))
        if not size or left[:size] != right[:size]:
            return len(left) == len(right) == 0
        left, right = left[size:], right[size:]
