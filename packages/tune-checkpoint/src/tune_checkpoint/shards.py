"""Weights as transformers lays them out in a folder: one safetensors file, or shards and their index."""

import json
from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path

from msgspec import Struct

from tune_checkpoint.atomic import sync
from tune_checkpoint.checkpoint import INDEX_NAME, WEIGHTS_NAME
from tune_checkpoint.dtypes import ITEM_BYTES
from tune_checkpoint.errors import OutputExistsError
from tune_checkpoint.safetensors_writer import Buffer, SafetensorsWriter

DEFAULT_SHARD_BYTES = 5_000_000_000


class TensorOut(Struct, frozen=True):
    """A tensor to be written."""

    name: str
    dtype: str
    """As safetensors spells it: `F32`, `BF16`, ..."""
    shape: tuple[int, ...]
    read: Callable[[], Buffer | Iterable[Buffer]]
    """Called once, in the tensor's turn: its bytes (little-endian, C order), whole or in chunks."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def write_checkpoint(
    folder: Path | str, tensors: Iterable[TensorOut], *, max_shard_size: int = DEFAULT_SHARD_BYTES
) -> tuple[str, ...]:
    """Write weights into a folder, as transformers' `save_pretrained` names and splits them.

    One tensor at a time is held, or one chunk of it. The folder is made if it is missing; use `atomic_folder`
    around this call where a half-written folder must never be seen.

    Args:
        folder: where to write.
        tensors: what to write. A tied tensor stands in it once.
        max_shard_size: bytes of weights in one file, at most; a larger tensor gets a file of its own.

    Returns:
        The names of the files written.

    Raises:
        OutputExistsError: the folder has weights already.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    present = sorted(path.name for path in folder.glob("model*.safetensors*"))
    if present:
        raise OutputExistsError(f"{folder}: has weights already ({present[0]}); write to another folder")
    shards = split_shards(list(tensors), max_shard_size)
    if len(shards) == 1:
        _write_file(folder / WEIGHTS_NAME, shards[0])
        return (WEIGHTS_NAME,)
    names = [f"model-{index:05d}-of-{len(shards):05d}.safetensors" for index in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard)
    write_file(folder / INDEX_NAME, _index(names, shards))
    return (*names, INDEX_NAME)


def split_shards(tensors: Sequence[TensorOut], max_shard_size: int) -> list[list[TensorOut]]:
    """Group tensors into files, in order, as huggingface_hub does."""
    shards: list[list[TensorOut]] = []
    current: list[TensorOut] = []
    current_bytes = 0
    for tensor in tensors:
        if tensor.nbytes > max_shard_size:
            shards.append([tensor])
            continue
        if current_bytes + tensor.nbytes > max_shard_size:
            shards.append(current)
            current, current_bytes = [], 0
        current.append(tensor)
        current_bytes += tensor.nbytes
    if current or not shards:
        shards.append(current)
    return shards


def write_file(path: Path, content: bytes) -> None:
    """Write a small file and sync it to the disk."""
    path.write_bytes(content)
    sync(path)


def _write_file(path: Path, tensors: list[TensorOut]) -> None:
    # Wider types first, so that every tensor is aligned to its own width whatever the sizes before it.
    ordered = sorted(tensors, key=lambda tensor: -ITEM_BYTES[tensor.dtype])
    with SafetensorsWriter(path, [(tensor.name, tensor.dtype, tensor.shape) for tensor in ordered]) as writer:
        for tensor in ordered:
            writer.write(tensor.name, tensor.read())


def _index(names: list[str], shards: list[list[TensorOut]]) -> bytes:
    tensors = [tensor for shard in shards for tensor in shard]
    index = {
        "metadata": {
            "total_parameters": sum(prod(tensor.shape) for tensor in tensors),
            "total_size": sum(tensor.nbytes for tensor in tensors),
        },
        "weight_map": {
            tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard
        },
    }
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
