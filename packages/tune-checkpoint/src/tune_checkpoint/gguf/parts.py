"""A GGUF model in one file or in several: finds the parts, and reads them as one.

Source: `SHARD_NAME_FORMAT` and the `split.*` keys of the `gguf` package, as llama.cpp's gguf-split has them.
"""

import re
from pathlib import Path

from msgspec.structs import replace

from tune_checkpoint.errors import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.gguf.reader import GgufHeader, read_gguf_header
from tune_checkpoint.mapped import MappedFile

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
"""The name of a part: the model's, the part's number from 1 on, and how many there are."""


def read_gguf(path: Path) -> GgufHeader:
    """Read the headers of a model.

    Args:
        path: its file, any of its parts, or a folder with nothing else of GGUF in it.

    Returns:
        The metadata of the first part, and the tensors of all.

    Raises:
        CheckpointNotFoundError: a part is missing, or the folder has no GGUF file.
        CorruptFileError: a file breaks the format, or the parts are not of one model.
        UnsupportedCheckpointError: the folder has several models, or a file cannot be read (see
            `read_gguf_header`).
    """
    paths = _part_paths(_only_model(path) if path.is_dir() else path)
    headers = [read_gguf_header(MappedFile(part)) for part in paths]
    if len(headers) == 1:
        _check_whole(headers[0])
        return headers[0]
    _check_parts(headers)
    return replace(headers[0], tensors=tuple(tensor for header in headers for tensor in header.tensors))


def gguf_names(folder: Path) -> list[str]:
    """The names of the GGUF files in a folder, in order."""
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix == ".gguf" and entry.is_file())


def _only_model(folder: Path) -> Path:
    """A file of the one model that a folder has."""
    names = gguf_names(folder)
    if not names:
        raise CheckpointNotFoundError(f"{folder}: no GGUF file in this folder")
    models: dict[tuple[str, str], str] = {}
    for name in names:
        match = PART.fullmatch(name)
        models.setdefault((match[1], match[3]) if match else (name, ""), name)
    if len(models) > 1:
        found = ", ".join(list(models.values())[:4])
        raise UnsupportedCheckpointError(
            f"{folder}: {len(models)} GGUF models in this folder ({found}); name the file of the one you want"
        )
    return folder / names[0]


def _part_paths(path: Path) -> list[Path]:
    match = PART.fullmatch(path.name)
    if not match or not 1 <= int(match[2]) <= int(match[3]):
        return [path]
    count = int(match[3])
    present = set(gguf_names(path.parent)) if path.parent.is_dir() else set[str]()
    names = [f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, count + 1)]
    missing = [name for name in names if name not in present]
    if missing:
        others = f" ({len(missing)} are missing in all)" if len(missing) > 1 else ""
        raise CheckpointNotFoundError(
            f"{path.parent / missing[0]}: no such file, but the model has {count} parts{others}; "
            "put all of them into this folder"
        )
    return [path.with_name(name) for name in names]


def _check_whole(header: GgufHeader) -> None:
    """A file that stands alone is the whole model."""
    count = header.metadata.integer("split.count") or 1
    if count == 1:
        return
    number = (header.metadata.integer("split.no") or 0) + 1
    raise CorruptFileError(
        f"{header.path}: is part {number} of {count} of a model (split.no, split.count), but its name does "
        f"not lead to the others; give the parts the names they had, MODEL-{number:05d}-of-{count:05d}.gguf"
    )


def _check_parts(headers: list[GgufHeader]) -> None:
    """Each part is the one that its name says, and together they have every tensor once."""
    total = sum(len(header.tensors) for header in headers)
    for index, header in enumerate(headers):
        metadata = header.metadata
        stated = metadata.integer("split.no"), metadata.integer("split.count")
        if stated != (index, len(headers)):
            raise CorruptFileError(
                f"{header.path}: by its name part {index + 1} of {len(headers)}, but inside it says "
                f"split.no {stated[0]} (from 0 on) and split.count {stated[1]}; download the parts again"
            )
        announced = metadata.integer("split.tensors.count")
        if announced not in (None, total):
            raise CorruptFileError(
                f"{header.path}: the parts have {total} tensors, but split.tensors.count is {announced}; "
                "they are not of one model: download them again"
            )
    names: dict[str, Path] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in names:
                raise CorruptFileError(
                    f"{header.path}: tensor {tensor.name!r} is also in {names[tensor.name].name}; "
                    "the parts are not of one model: download them again"
                )
            names[tensor.name] = header.path
