"""Which files of a checkpoint hold weights, and every tensor in them, whatever its kind."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tune_checkpoint.checkpoint import read_tensors
from tune_checkpoint.errors import CheckpointNotFoundError
from tune_checkpoint.kinds import META_SHARD, MISTRAL_FILE, TORCHTUNE_FILE, detect_kind
from tune_checkpoint.plan import Kind, TensorSlice

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

AnyKind = Kind | Literal["adapter"]
"""What can be looked at: what can be converted, and a PEFT adapter."""

_FILES_OF: dict[Kind, re.Pattern[str]] = {
    "meta": META_SHARD,
    "mistral": MISTRAL_FILE,
    "litgpt": re.compile(r"lit_model\.pth"),
    "torchtune": TORCHTUNE_FILE,
}
"""Names of the files of weights in the folders of some kinds."""


def kind_of(path: Path) -> AnyKind:
    """Say what is at a path: a kind of checkpoint, or an adapter.

    Raises:
        CheckpointNotFoundError: nothing is there.
        UnsupportedCheckpointError: it is none of the kinds.
    """
    if path.is_dir() or path.name in ADAPTER_WEIGHTS:
        folder = path if path.is_dir() else path.parent
        if (folder / ADAPTER_CONFIG).is_file():
            return "adapter"
    return detect_kind(path)


def all_tensors(path: Path, kind: AnyKind) -> tuple[TensorSlice, ...]:
    """Every tensor of every file of a checkpoint, as they are called there; from headers alone.

    The shards of a Meta checkpoint each have a part of every tensor, under one name.
    """
    if not path.is_dir() or kind in ("hf", "torch", "gguf"):
        return read_tensors(path)
    return tuple(tensor for file in weight_files(path, kind) for tensor in read_tensors(file))


def weight_files(folder: Path, kind: AnyKind) -> list[Path]:
    """The files of weights in a folder of a kind that has no index and no parts that name each other.

    Raises:
        CheckpointNotFoundError: there are none.
    """
    if kind == "adapter":
        files = [folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()][:1]
        wanted = " or ".join(ADAPTER_WEIGHTS)
    else:
        assert kind in _FILES_OF, kind
        wanted = _FILES_OF[kind].pattern
        files = sorted(entry for entry in folder.iterdir() if _FILES_OF[kind].fullmatch(entry.name))
    if not files:
        raise CheckpointNotFoundError(f"{folder}: no {wanted} in it, which would hold the weights")
    return files


def distinct(tensors: Iterable[TensorSlice]) -> list[TensorSlice]:
    """The tensors, without those that are others under a second name."""
    return list({place(tensor): tensor for tensor in reversed(list(tensors))}.values())[::-1]


def place(tensor: TensorSlice) -> tuple[object, ...]:
    """What two tensors have in common that are one."""
    return tensor.path, tensor.offset, tensor.shape, tensor.dtype, tensor.strides
