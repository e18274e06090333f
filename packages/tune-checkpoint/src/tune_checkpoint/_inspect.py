"""`inspect`. The module's name leaves `tune_checkpoint.inspect` to the function."""

from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from msgspec import Struct

from tune_checkpoint.checkpoint import Format, format_of
from tune_checkpoint.errors import reading
from tune_checkpoint.facts import EMBEDDINGS, Facts, ModelSizes, read_facts
from tune_checkpoint.gguf.parts import read_gguf
from tune_checkpoint.hf import BUFFERS
from tune_checkpoint.listing import ADAPTER_CONFIG, AnyKind, all_tensors, distinct, kind_of, place
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.planning import read_json
from tune_checkpoint.tied import HEAD

COMPUTED = ("rope_freqs.weight", "rope.freqs")
"""Tensors of GGUF and Meta files that are no parameters, besides those of Hugging Face's."""


class FileInfo(Struct, frozen=True):
    """A file of a checkpoint."""

    name: str
    nbytes: int
    num_tensors: int
    """0 of a file that holds no weights."""


class TensorInfo(Struct, frozen=True):
    """A tensor, as its file has it."""

    name: str
    dtype: str
    """As safetensors spells it (`BF16`), or a block type of GGUF (`Q4_1`)."""
    shape: tuple[int, ...]
    nbytes: int
    file: str


class DtypeInfo(Struct, frozen=True):
    """The tensors of one type."""

    dtype: str
    num_tensors: int
    num_elements: int
    nbytes: int


class AdapterInfo(Struct, frozen=True):
    """What a PEFT adapter says about itself."""

    type: str | None
    """`LORA`, ..."""
    rank: int | None
    alpha: float | None
    targets: tuple[str, ...]
    """Names, or parts of names, of the weights that it changes; a pattern, if there is one."""
    base_model: str | None
    variants: tuple[str, ...]
    """`rslora`, `dora`."""


class Inspection(Struct, frozen=True):
    """What a checkpoint holds."""

    path: str
    kind: AnyKind
    format: Format
    architecture: str | None
    architecture_from: str | None
    """What says so: a file's name, `metadata` of a GGUF file, or `tensor names`, which is a guess."""
    num_parameters: int
    """A weight under two names counts once."""
    nbytes: int
    """Bytes of the weights."""
    sizes: ModelSizes
    adapter: AdapterInfo | None
    dtypes: tuple[DtypeInfo, ...]
    """The type with the most bytes first."""
    tied: tuple[tuple[str, str], ...]
    """Names that stand for the weight under another name, and that name."""
    files: tuple[FileInfo, ...]
    """Those with weights first."""
    tensors: tuple[TensorInfo, ...]


def inspect(path: Path | str) -> Inspection:
    """Say what a checkpoint holds, from headers alone.

    Args:
        path: a checkpoint of any kind, a PEFT adapter, or one file of either.

    Raises:
        CheckpointNotFoundError: nothing is there.
        CorruptFileError: a file breaks its format.
        UnsupportedCheckpointError: it is no checkpoint.
        ReadFailedError: the system refused to read it.
    """
    with reading(path):
        return _inspect(Path(path))


def _inspect(path: Path) -> Inspection:
    kind = kind_of(path)
    if kind == "gguf":
        header = read_gguf(path)
        tensors, metadata = header.tensors, header.metadata
    else:
        tensors, metadata = all_tensors(path, kind), None
    facts = read_facts(path, kind, tensors, metadata)
    once = distinct(tensors)
    first_file = tensors[0].path if tensors else path
    return Inspection(
        path=str(path),
        kind=kind,
        format=format_of(Path(first_file)),
        architecture=facts.architecture,
        architecture_from=facts.told_by,
        num_parameters=_num_parameters(tensors, kind, facts),
        nbytes=sum(tensor.nbytes for tensor in once),
        sizes=facts.sizes,
        adapter=_adapter(path if path.is_dir() else path.parent) if kind == "adapter" else None,
        dtypes=_dtypes(once),
        tied=_tied(tensors, facts),
        files=_files(path, tensors),
        tensors=tuple(
            TensorInfo(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes, Path(tensor.path).name)
            for tensor in tensors
        ),
    )


def _num_parameters(tensors: Sequence[TensorSlice], kind: AnyKind, facts: Facts) -> int:
    tensors = [tensor for tensor in tensors if not tensor.name.endswith((*BUFFERS, *COMPUTED))]
    if kind == "meta":  # every shard has all of the vectors, and a part of each matrix
        vectors = {tensor.name: tensor for tensor in tensors if len(tensor.shape) == 1}
        tensors = [*vectors.values(), *(tensor for tensor in tensors if len(tensor.shape) > 1)]
    once = distinct(tensors)
    if facts.is_tied and any(tensor.name in EMBEDDINGS for tensor in once):
        once = [tensor for tensor in once if tensor.name != HEAD]
    return sum(prod(tensor.shape) for tensor in once)


def _dtypes(tensors: Sequence[TensorSlice]) -> tuple[DtypeInfo, ...]:
    count: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for tensor in tensors:
        count[tensor.dtype] += 1
        elements[tensor.dtype] += prod(tensor.shape)
        nbytes[tensor.dtype] += tensor.nbytes
    return tuple(DtypeInfo(name, count[name], elements[name], size) for name, size in nbytes.most_common())


def _tied(tensors: Sequence[TensorSlice], facts: Facts) -> tuple[tuple[str, str], ...]:
    first: dict[tuple[object, ...], str] = {}
    tied: list[tuple[str, str]] = []
    for tensor in tensors:
        name = first.setdefault(place(tensor), tensor.name)
        if name != tensor.name and tensor.nbytes:
            tied.append((tensor.name, name))
    embedding = next((tensor.name for tensor in tensors if tensor.name in EMBEDDINGS), None)
    if facts.is_tied and embedding is not None and all(tensor.name != HEAD for tensor in tensors):
        tied.append((HEAD, embedding))
    return tuple(tied)


def _files(path: Path, tensors: Sequence[TensorSlice]) -> tuple[FileInfo, ...]:
    """The files with weights, and what stands beside them if a folder was asked for."""
    counts = Counter(tensor.path for tensor in tensors)
    weights = [FileInfo(Path(file).name, Path(file).stat().st_size, n) for file, n in counts.items()]
    if not path.is_dir():
        return tuple(weights) or (FileInfo(path.name, path.stat().st_size, 0),)
    others = [
        FileInfo(entry.name, entry.stat().st_size, 0)
        for entry in sorted(path.iterdir())
        if entry.is_file() and str(entry) not in counts
    ]
    return (*weights, *others)


def _adapter(folder: Path) -> AdapterInfo:
    config = read_json(folder / ADAPTER_CONFIG)
    alpha = config.get("lora_alpha")
    return AdapterInfo(
        type=_text(config.get("peft_type")),
        rank=rank if type(rank := config.get("r")) is int else None,
        alpha=float(alpha) if isinstance(alpha, int | float) else None,
        targets=_texts(config.get("target_modules")),
        base_model=_text(config.get("base_model_name_or_path")),
        variants=tuple(name for name in ("rslora", "dora") if config.get(f"use_{name}") is True),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    texts: list[Any] = [value] if isinstance(value, str) else value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]
    return tuple(sorted(text for text in texts if isinstance(text, str)))
