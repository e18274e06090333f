"""Where everything stands in a GGUF file that is to be written."""

from collections import Counter
from collections.abc import Sequence
from math import prod

from tune_checkpoint.gguf.encode import aligned, encode_tensor
from tune_checkpoint.layout import FileLayout, Placed
from tune_checkpoint.plan import Plan, TensorPlan


def gguf_layout(plan: Plan) -> tuple[FileLayout, ...]:
    """Lay out the one file of a plan whose target is `gguf`: `model-q8_0.gguf` if its matrices are Q8_0."""
    table: list[bytes] = []
    offsets: list[int] = []
    end = 0
    for tensor in plan.tensors:
        table.append(encode_tensor(tensor.name, tensor.dtype, tensor.shape, end))
        offsets.append(end)
        end = aligned(end + tensor.nbytes)
    header = plan.preamble + b"".join(table)
    start = aligned(len(header))
    placed = tuple(
        Placed(tensor, start + offset) for tensor, offset in zip(plan.tensors, offsets, strict=True)
    )
    name = f"model-{main_type(plan.tensors).lower()}.gguf"
    return (FileLayout(name, start + end, ((0, header),), placed),)


def main_type(tensors: Sequence[TensorPlan]) -> str:
    """The type of most of the weights: vectors are F32 in a file of any type."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += prod(tensor.shape)
    return sizes.most_common(1)[0][0]
