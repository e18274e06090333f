"""`open_checkpoint`: any checkpoint that this package reads, as a mapping from name to lazy tensor."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tune_checkpoint.errors import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.safetensors_reader import read_index, read_safetensors_header

if TYPE_CHECKING:
    import numpy as np

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


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
        """The bytes as they lie in the file: a read-only view of the mapping, no copy."""
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
        kind: `safetensors` or `gguf`.
    """

    def __init__(self, path: Path, kind: str, tensors: dict[str, LazyTensor]) -> None:
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
        path: a Hugging Face folder (`model.safetensors`, or an index and its shards), one
            `.safetensors` file, or one `.gguf` file.

    Returns:
        A mapping from tensor name to `LazyTensor`.

    Raises:
        CheckpointNotFoundError: nothing is there, or the folder has no weights that can be read.
        CorruptFileError: a file breaks its format, or a tensor of the index is in no shard.
        UnsupportedCheckpointError: it is a file of another kind.
    """
    path = Path(path)
    if path.is_dir():
        return Checkpoint(path, "safetensors", _open_folder(path))
    file = MappedFile(path)
    if is_gguf(file):
        from tune_checkpoint.gguf.reader import read_gguf_header

        return Checkpoint(path, "gguf", _tensors(file, read_gguf_header(file).tensors))
    if path.suffix == ".safetensors":
        return Checkpoint(path, "safetensors", _tensors(file, read_safetensors_header(file)))
    raise UnsupportedCheckpointError(
        f"{path}: neither a .safetensors nor a GGUF file; these can be opened, and Hugging Face folders"
    )


def is_gguf(file: MappedFile) -> bool:
    """Whether a file is GGUF, by its first bytes or, if these are damaged, by its name."""
    return bytes(file.view[:4]) == b"GGUF" or file.path.suffix == ".gguf"


def _tensors(file: MappedFile, slices: tuple[TensorSlice, ...]) -> dict[str, LazyTensor]:
    return {tensor.name: LazyTensor(tensor, file) for tensor in slices}


def _open_folder(folder: Path) -> dict[str, LazyTensor]:
    if (folder / WEIGHTS_NAME).exists():
        file = MappedFile(folder / WEIGHTS_NAME)
        return _tensors(file, read_safetensors_header(file))
    if (folder / INDEX_NAME).exists():
        return _open_shards(folder)
    raise CheckpointNotFoundError(_no_weights(folder))


def _open_shards(folder: Path) -> dict[str, LazyTensor]:
    weight_map = read_index(folder / INDEX_NAME)
    tensors: dict[str, LazyTensor] = {}
    for file_name in dict.fromkeys(weight_map.values()):
        file = MappedFile(folder / file_name)
        for tensor in read_safetensors_header(file):
            # A tensor that the index places elsewhere or not at all is not part of the checkpoint.
            if weight_map.get(tensor.name) == file_name:
                tensors[tensor.name] = LazyTensor(tensor, file)
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        raise CorruptFileError(
            f"{folder / INDEX_NAME}: tensor {missing[0]!r} is not in {weight_map[missing[0]]}, where the "
            f"index places it ({len(missing)} missing in all); shards and index are not of one checkpoint"
        )
    return tensors


def _no_weights(folder: Path) -> str:
    looked_for = f"{WEIGHTS_NAME} or {INDEX_NAME}"
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pth", ".pt", ".gguf"))
    if any(name.endswith(".gguf") for name in others):
        return f"{folder}: no {looked_for}; found {', '.join(others)}: give the path of the .gguf file itself"
    if others:
        return f"{folder}: no {looked_for}; found {', '.join(others)}, a format that cannot be read yet"
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    return f"{folder}: no {looked_for}; found {found}"
