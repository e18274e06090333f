"""Weights as transformers lays them out in a folder: one safetensors file, or shards and their index."""

import json
from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec import Struct

from tune_checkpoint.atomic import sync
from tune_checkpoint.checkpoint import INDEX_NAME, WEIGHTS_NAME
from tune_checkpoint.dtypes import ITEM_BYTES
from tune_checkpoint.errors import OutputExistsError
from tune_checkpoint.plan import SideFile
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
    names = shard_names(len(shards))
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard)
    if len(shards) == 1:
        return tuple(names)
    index = index_file(names, shards)
    write_file(folder / index.name, index.chunks())
    return (*names, index.name)


class Sized(Protocol):
    """A tensor with a name and a size, whatever makes it."""

    @property
    def name(self) -> str:
        """Its name in the checkpoint."""
        ...

    @property
    def dtype(self) -> str:
        """As safetensors spells it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Outermost dimension first."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        ...


T = TypeVar("T", bound=Sized)


def shard_names(num_shards: int) -> list[str]:
    """The names of the files, as transformers has them."""
    if num_shards == 1:
        return [WEIGHTS_NAME]
    return [f"model-{index:05d}-of-{num_shards:05d}.safetensors" for index in range(1, num_shards + 1)]


def split_shards(tensors: Sequence[T], max_shard_size: int) -> list[list[T]]:
    """Group tensors into files, in order, as huggingface_hub does."""
    shards: list[list[T]] = []
    current: list[T] = []
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


def widest_first(tensors: Sequence[T]) -> list[T]:
    """The order of the bytes in a file: every tensor is aligned to its own width, whatever the sizes."""
    return sorted(tensors, key=lambda tensor: -ITEM_BYTES[tensor.dtype])


def write_file(path: Path, content: Iterable[bytes]) -> None:
    """Write a small file anew, from pieces, and sync it to the disk, in a folder that may be new."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link, which leads elsewhere
    with path.open("wb") as file:
        file.writelines(content)
    sync(path)


def _write_file(path: Path, tensors: list[TensorOut]) -> None:
    ordered = widest_first(tensors)
    with SafetensorsWriter(path, [(tensor.name, tensor.dtype, tensor.shape) for tensor in ordered]) as writer:
        for tensor in ordered:
            writer.write(tensor.name, tensor.read())


def index_file(names: Sequence[str], shards: Sequence[Sequence[Sized]]) -> SideFile:
    """`model.safetensors.index.json`, as transformers writes it."""
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
    return SideFile(INDEX_NAME, (json.dumps(index, indent=2, sort_keys=True) + "\n").encode())
