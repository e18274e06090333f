"""Which folders a conversion may write to, or replace."""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from tune_checkpoint.atomic import check_free
from tune_checkpoint.errors import CheckpointNotFoundError, OutputExistsError
from tune_checkpoint.plan import Target

LEGAL = {"LICENSE", "LICENSE.md", "LICENSE.txt", "USE_POLICY.md", "NOTICE"}


class _Folder(Struct, frozen=True):
    """How a folder that an earlier conversion wrote is known."""

    mark: str
    """A file that it has, or a pattern for one."""
    suffixes: tuple[str, ...]
    """Of files that may be lost when another takes its place."""
    names: frozenset[str] = frozenset()
    """And whole names."""
    holds: str = ""
    """All this, for messages."""


_FOLDERS: dict[Target, _Folder] = {
    "hf": _Folder(
        "config.json",
        (".safetensors", ".json", ".jinja", ".model", ".bin"),
        frozenset({"merges.txt", "vocab.txt", "README.md", ".gitattributes"}),
        "a model's folder is replaced, with its config.json, weights and tokenizer",
    ),
    "meta": _Folder(
        "params.json",
        (".pth", ".json", ".model"),
        holds="a model's folder is replaced, with its params.json, weights and tokenizer",
    ),
    "gguf": _Folder("*.gguf", (".gguf",), holds="a folder of GGUF files is replaced, with those"),
}


def check_output(sources: Sequence[Path], output_dir: Path, target: Target, *, force: bool) -> None:
    """Refuse before any work is done.

    Args:
        sources: what is read.
        output_dir: where a folder is to be made.
        target: what it will be; only a folder of the same is replaced.
        force: replace it.

    Raises:
        CheckpointNotFoundError: a source is not there.
        OutputExistsError: no folder can be made, one stands there, or something in it would be lost.
    """
    for src in sources:
        if not src.exists():
            raise CheckpointNotFoundError(f"{src}: no such file or folder")
        if src.resolve().is_relative_to(output_dir.resolve()):
            raise OutputExistsError(f"{output_dir}: holds the source {src}; choose another output folder")
    check_free(output_dir, force=force)
    if output_dir.is_dir():
        _check_replaceable(output_dir, _FOLDERS[target])


def _check_replaceable(folder: Path, known: _Folder) -> None:
    """Refuse to replace anything but what a conversion wrote: what else stands there may have no copy."""
    entries = sorted(folder.iterdir())
    stray = next((entry for entry in entries if not _belongs(entry, known)), None)
    if stray is None and entries and not any(folder.glob(known.mark)):
        stray = entries[0]
    if stray is not None:
        raise OutputExistsError(
            f"{folder}: {stray.name} would be lost; only {known.holds} and nothing else. "
            "Choose another output folder"
        )


def _belongs(path: Path, known: _Folder) -> bool:
    return path.is_file() and (path.suffix in known.suffixes or path.name in known.names | LEGAL)
