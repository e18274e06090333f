"""Folders and files that are whole or absent."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tune_checkpoint.errors import OutputExistsError


@contextmanager
def atomic_folder(path: Path | str, *, force: bool = False) -> Generator[Path]:
    """Fill a folder that appears at `path` only when it is whole.

    The body writes into the yielded sibling folder; when it ends, its files are synced and the folder is
    renamed. When it raises, the sibling is removed and what stood at `path` stays.

    Args:
        path: the folder to make. Missing parents are made.
        force: replace a folder that has something in it. It is removed after the new one is whole.

    Yields:
        The folder to write into.

    Raises:
        OutputExistsError: `path` is a file, or a folder with something in it and `force` is not set.
    """
    target = Path(path).resolve()
    check_free(target, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    replaced = target.with_name(f".{target.name}.replaced")
    _clear_leftovers(target, partial, replaced)
    partial.mkdir()
    try:
        yield partial
        _sync_tree(partial)
        _swap(partial, target, replaced)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def check_free(path: Path, *, force: bool) -> None:
    """Refuse an output path that is a file, or that has something in it unless `force` is set."""
    if path.is_dir():
        if not force and any(path.iterdir()):
            raise OutputExistsError(
                f"{path}: the output folder is not empty; choose another, or pass --force to replace it"
            )
    elif path.exists():
        raise OutputExistsError(
            f"{path}: the output is to be a folder, and a file stands there; choose another"
        )


def sync(path: Path) -> None:
    """Have the system write a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear_leftovers(target: Path, partial: Path, replaced: Path) -> None:
    """Mend what a killed process left: a half-written folder, or an old one moved aside."""
    if partial.exists():
        shutil.rmtree(partial)
    if replaced.exists():
        if target.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(target)


def _sync_tree(folder: Path) -> None:
    for entry in folder.rglob("*"):
        sync(entry)
    sync(folder)


def _swap(partial: Path, target: Path, replaced: Path) -> None:
    if target.exists():
        target.rename(replaced)
    try:
        partial.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
