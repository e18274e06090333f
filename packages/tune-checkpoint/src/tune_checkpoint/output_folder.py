"""Which folders a conversion may write to, or replace."""

import re
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from tune_checkpoint.atomic import check_free
from tune_checkpoint.companions import LEGAL, find_strangers
from tune_checkpoint.errors import CheckpointNotFoundError, OutputExistsError
from tune_checkpoint.plan import Target


class _Folder(Struct, frozen=True):
    """How a folder that an earlier conversion wrote is known."""

    mark: str
    """A file that it has, or a pattern for one."""
    names: re.Pattern[str]
    """Of files that may be lost when another takes its place, and for `hf` those that belong to a model."""
    holds: str
    """All this, for messages."""


_LEGAL = "|".join(map(re.escape, LEGAL))
_FOLDERS: dict[Target, _Folder] = {
    "hf": _Folder(
        "config.json",
        re.compile(r".*\.(safetensors|bin|index\.json)|\.gitattributes|\.tune-download\.json"),
        "a model's folder is replaced, with its config.json, weights and tokenizer",
    ),
    "meta": _Folder(
        "params.json",
        re.compile(rf".*\.pth|params\.json|tokenizer\.model|{_LEGAL}"),
        "a model's folder is replaced, with its params.json, weights and tokenizer",
    ),
    "gguf": _Folder(
        "*.gguf", re.compile(rf".*\.gguf|{_LEGAL}"), "a folder of GGUF files is replaced, with those"
    ),
}


def check_output(
    src: Path | str, adapter: Path | str | None, output_dir: Path, target: Target, *, force: bool
) -> None:
    """Refuse before any work is done.

    Args:
        src: what is read.
        adapter: what is merged into it, if anything.
        output_dir: where a folder is to be made.
        target: what it will be; only a folder of the same is replaced.
        force: replace it.

    Raises:
        CheckpointNotFoundError: a source is not there.
        OutputExistsError: no folder can be made, one stands there, or something in it would be lost.
    """
    for source in (Path(src), *([] if adapter is None else [Path(adapter)])):
        if not source.exists():
            raise CheckpointNotFoundError(f"{source}: no such file or folder")
        if source.resolve().is_relative_to(output_dir.resolve()):
            raise OutputExistsError(f"{output_dir}: holds the source {source}; choose another output folder")
        if output_dir.resolve().is_relative_to(source.resolve()):
            raise OutputExistsError(
                f"{output_dir}: lies in the source {source}; choose a folder outside of it"
            )
    check_free(output_dir, force=force)
    if output_dir.is_dir():
        _check_replaceable(output_dir, target)


def check_apart(paths: Sequence[str], output_dir: Path) -> None:
    """Refuse to replace files that are read, also where they are reached by links.

    Raises:
        OutputExistsError: one of them is in the output folder.
    """
    for path in paths:
        if Path(path).resolve().is_relative_to(output_dir.resolve()):
            raise OutputExistsError(
                f"{output_dir}: holds the weights that {path} leads to; choose another output folder"
            )


def _check_replaceable(folder: Path, target: Target) -> None:
    """Refuse to replace anything but what a conversion wrote: what else stands there may have no copy."""
    known = _FOLDERS[target]
    entries = sorted(entry.name for entry in folder.iterdir())
    if target == "hf":
        strays = find_strangers(folder, lambda path: _is_of(path, known))
    else:
        strays = [name for name in entries if not _is_of(folder / name, known)]
    if not strays and entries and not any(folder.glob(known.mark)):
        strays = entries
    if strays:
        raise OutputExistsError(
            f"{folder}: {strays[0]} would be lost; only {known.holds} and nothing else. "
            "Choose another output folder"
        )


def _is_of(path: Path, known: _Folder) -> bool:
    return path.is_file() and known.names.fullmatch(path.name) is not None
