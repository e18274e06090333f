"""Where everything stands in the files of an output, down to the byte, before anything is written."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from tune_checkpoint.plan import SideFile, TensorPlan
from tune_checkpoint.safetensors_writer import safetensors_header
from tune_checkpoint.shards import index_file, shard_names, split_shards, widest_first

Piece = tuple[int, bytes]
"""An offset in a file, and what stands there."""


class Placed(Struct, frozen=True):
    """A tensor of an output file."""

    tensor: TensorPlan
    offset: int
    """From the start of the file, in bytes."""


class FileLayout(Struct, frozen=True):
    """An output file: every byte of it is in a piece or in a tensor, or zero."""

    name: str
    size: int
    pieces: tuple[Piece, ...]
    tensors: tuple[Placed, ...]
    finish: Callable[[Sequence[int]], tuple[Piece, ...]] | None = None
    """Further pieces, made from the CRC-32 of each tensor, where the format has them in it."""


def safetensors_layout(
    tensors: Sequence[TensorPlan], max_shard_size: int
) -> tuple[tuple[FileLayout, ...], tuple[SideFile, ...]]:
    """Lay tensors out as transformers does: in one file, or in shards with an index beside them."""
    shards = split_shards(tensors, max_shard_size)
    names = shard_names(len(shards))
    files = tuple(_safetensors_file(name, shard) for name, shard in zip(names, shards, strict=True))
    return files, () if len(shards) == 1 else (index_file(names, shards),)


def _safetensors_file(name: str, tensors: Sequence[TensorPlan]) -> FileLayout:
    ordered = widest_first(tensors)
    header = safetensors_header([(tensor.name, tensor.dtype, tensor.shape) for tensor in ordered])
    placed: list[Placed] = []
    end = len(header)
    for tensor in ordered:
        placed.append(Placed(tensor, end))
        end += tensor.nbytes
    return FileLayout(name, end, ((0, header),), tuple(placed))
