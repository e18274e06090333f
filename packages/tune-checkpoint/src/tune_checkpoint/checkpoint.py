"""`open_checkpoint`: any checkpoint that this package reads, as a mapping from name to lazy tensor."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tune_checkpoint.errors import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.safetensors_reader import read_index, read_safetensors_header

if TYPE_CHECKING:
    import numpy as np

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
BIN_NAME = "pytorch_model.bin"
BIN_INDEX_NAME = "pytorch_model.bin.index.json"

SHARD = re.compile(r".+-\d{5}-of-(\d{5})\.(safetensors|bin)")
"""Name of one of several files, and how many they are."""

TORCH_STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9")
"""A zip file, and the pickled number that `torch.save` began with before it wrote these."""

Format = Literal["safetensors", "gguf", "torch"]


class LazyTensor:
    """A tensor whose bytes stay on the disk until they are asked for."""

    __slots__ = ("_file", "_slice")

    def __init__(self, tensor: TensorSlice, file: MappedFile) -> None:
        self._slice = tensor
        self._file = file

    @property
    def name(self) -> str:
        """The name under which the checkpoint holds it."""
        return self._slice.name

    @property
    def dtype(self) -> str:
        """As safetensors spells it (`F32`, `BF16`, `I64`); a block type of GGUF as `Q4_1`."""
        return self._slice.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Outermost dimension first."""
        return self._slice.shape

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self._slice.nbytes

    def buffer(self) -> memoryview:
        """The bytes in C order: a read-only view of the mapped file, or a copy if they lie otherwise."""
        if self._slice.strides is not None:
            return memoryview(self.numpy().tobytes())
        return self._file.view[self._slice.offset : self._slice.offset + self._slice.nbytes]

    def numpy(self) -> "np.ndarray":
        """The values: a read-only view of the file (BF16 by ml_dtypes), or F32 made from a quantised type."""
        from tune_checkpoint.arrays import to_numpy

        return to_numpy(self._slice, self._file.view)

    def __repr__(self) -> str:
        return f"LazyTensor({self.name!r}, {self.dtype}, {list(self.shape)})"


class Checkpoint(Mapping[str, LazyTensor]):
    """The tensors of a checkpoint by name, in the order of its files.

    Attributes:
        path: what was opened.
        kind: the format of its files: `safetensors`, `gguf` or `torch`.
    """

    def __init__(self, path: Path, kind: Format, tensors: dict[str, LazyTensor]) -> None:
        self.path = path
        self.kind = kind
        self._tensors = tensors

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {self.kind}, {len(self)} tensors)"


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a checkpoint without reading its weights.

    Args:
        path: a Hugging Face folder (safetensors or `pytorch_model.bin`, whole or in shards), a folder with
            one GGUF model, or one file of safetensors, GGUF (or one of its parts) or `torch.save`.

    Returns:
        A mapping from tensor name to `LazyTensor`.

    Raises:
        CheckpointNotFoundError: nothing is there, or the folder has no weights that can be read.
        CorruptFileError: a file breaks its format, or a tensor of the index is in no shard.
        UnsupportedCheckpointError: it is of another kind.
    """
    path = Path(path)
    files: dict[str, MappedFile] = {}
    tensors: dict[str, LazyTensor] = {}
    for tensor in read_tensors(path):
        if tensor.path not in files:
            files[tensor.path] = MappedFile(Path(tensor.path))
        tensors[tensor.name] = LazyTensor(tensor, files[tensor.path])
    any_file = next(iter(files), None)
    return Checkpoint(path, "safetensors" if any_file is None else format_of(Path(any_file)), tensors)


def read_tensors(path: Path) -> tuple[TensorSlice, ...]:
    """Where each tensor of a checkpoint lies, as `open_checkpoint` finds it."""
    return _read_folder(path) if path.is_dir() else _read_file(MappedFile(path))


def read_whole(path: Path) -> tuple[TensorSlice, ...]:
    """The same of the whole checkpoint, for which each of its shards stands too.

    Raises:
        UnsupportedCheckpointError: a shard is given, and no index says which others there are.
    """
    if path.is_dir():
        return _read_folder(path)
    for name in (INDEX_NAME, BIN_INDEX_NAME):
        index = path.parent / name
        if index.is_file() and path.name in read_index(index).values():
            return _read_shards(path.parent, index)
    match = SHARD.fullmatch(path.name)
    if match and int(match[1]) > 1:
        raise UnsupportedCheckpointError(
            f"{path}: one of {int(match[1])} files of a model, whose index "
            f"({INDEX_NAME if match[2] == 'safetensors' else BIN_INDEX_NAME}) is not beside it or does not "
            "name it; put all files of the model and its index into one folder, and give that"
        )
    return _read_file(MappedFile(path))


def format_of(path: Path) -> Format:
    """Say what format a file has, by its first bytes or, where these are damaged, by its name.

    Raises:
        CheckpointNotFoundError: it cannot be read.
        UnsupportedCheckpointError: it has none that is known.
    """
    return _format(MappedFile(path))


def _format(file: MappedFile) -> Format:
    start, suffix = bytes(file.view[:9]), file.path.suffix
    if start[:4] == b"GGUF" or suffix == ".gguf":
        return "gguf"
    if start.startswith(TORCH_STARTS) or suffix in (".bin", ".pth", ".pt"):
        return "torch"
    if suffix == ".safetensors" or start[8:9] == b"{":
        return "safetensors"
    raise UnsupportedCheckpointError(
        f"{file.path}: not a file of safetensors, GGUF or torch.save; these can be read"
    )


def _read_file(file: MappedFile) -> tuple[TensorSlice, ...]:
    found = _format(file)
    if found == "gguf":
        from tune_checkpoint.gguf.parts import read_gguf

        return read_gguf(file.path).tensors
    if found == "torch":
        from tune_checkpoint.torch_file.reader import read_torch_file

        return read_torch_file(file)
    return read_safetensors_header(file)


def _read_folder(folder: Path) -> tuple[TensorSlice, ...]:
    for weights, index in ((WEIGHTS_NAME, INDEX_NAME), (BIN_NAME, BIN_INDEX_NAME)):
        if (folder / weights).exists():
            return _read_file(MappedFile(folder / weights))
        if (folder / index).exists():
            return _read_shards(folder, folder / index)
    if any(path.suffix == ".gguf" for path in folder.iterdir()):
        from tune_checkpoint.gguf.parts import read_gguf

        return read_gguf(folder).tensors
    raise CheckpointNotFoundError(_no_weights(folder))


def _read_shards(folder: Path, index: Path) -> tuple[TensorSlice, ...]:
    weight_map = read_index(index)
    tensors: dict[str, TensorSlice] = {}
    for file_name in dict.fromkeys(weight_map.values()):
        for tensor in _read_file(_shard(index, file_name)):
            # A tensor that the index places elsewhere or not at all is not part of the checkpoint.
            if weight_map.get(tensor.name) == file_name:
                tensors[tensor.name] = tensor
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        raise CorruptFileError(
            f"{index}: tensor {missing[0]!r} is not in {weight_map[missing[0]]}, where the "
            f"index places it ({len(missing)} missing in all); shards and index are not of one checkpoint"
        )
    return tuple(tensors.values())


def _shard(index: Path, file_name: str) -> MappedFile:
    try:
        return MappedFile(index.parent / file_name)
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{error}; {index.name} names it: download it from where the other files came from"
        ) from error


def _no_weights(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    for name in (WEIGHTS_NAME, INDEX_NAME, BIN_NAME, BIN_INDEX_NAME):
        if name in names:
            return (
                f"{folder / name}: a link to {(folder / name).readlink()}, which is not there; "
                "download the model again, or copy the folder with what its links lead to"
            )
    shards = [match for name in names if (match := SHARD.fullmatch(name))]
    if shards:
        index = INDEX_NAME if shards[0][2] == "safetensors" else BIN_INDEX_NAME
        return (
            f"{folder}: {len(shards)} files like {shards[0][0]}, but not {index}, which says what is in "
            "which; download it from where the model came from"
        )
    looked_for = f"{WEIGHTS_NAME}, {INDEX_NAME}, {BIN_NAME} or {BIN_INDEX_NAME}"
    others = [name for name in names if name.endswith((".pth", ".pt"))]
    if others:
        return (
            f"{folder}: no {looked_for}; found {', '.join(others)}\n  to make a Hugging Face folder of it: "
            f"`tune-checkpoint convert {shlex.quote(str(folder))} --output-dir DIR`"
        )
    return f"{folder}: no {looked_for}; found {', '.join(names[:8]) or 'nothing'}"
