"""Folders and files that are whole or absent."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tune_checkpoint.errors import OutputExistsError

# The siblings that this process works in, so that they can be told from what a killed one left under the
# same process number, as happens in containers.
_in_use: set[str] = set()


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
        OutputExistsError: `path` is a file or lies in one; is the current folder, the home folder or one that
            holds them; or has something in it and `force` is not set.
    """
    target = Path(path).resolve()
    _clear_leftovers(target)
    check_free(target, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    stem = f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}"
    partial, replaced = target.with_name(f"{stem}.partial"), target.with_name(f"{stem}.replaced")
    _in_use.update((partial.name, replaced.name))
    try:
        partial.mkdir()
        yield partial
        _sync_tree(partial)
        _swap(partial, target, replaced, force=force)
        sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _put_back_or_remove(replaced, target)
        _in_use.difference_update((partial.name, replaced.name))


def check_free(path: Path, *, force: bool) -> None:
    """Refuse an output path where no folder can be made, or where one stands that is not to be replaced."""
    if path.is_dir():
        _check_unoccupied(path)
        if not force and any(path.iterdir()):
            raise OutputExistsError(_not_empty(path))
    elif path.exists():
        raise OutputExistsError(
            f"{path}: the output is to be a folder, and a file stands there; choose another"
        )
    else:
        above = next((parent for parent in path.parents if parent.exists()), None)
        if above is not None and not above.is_dir():
            raise OutputExistsError(f"{path}: no folder can be made there: {above} is a file; choose another")


def sync(path: Path) -> None:
    """Have the system write a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_empty(path: Path) -> str:
    return (
        f"{path}: the output folder is not empty; choose another, or replace it with --force "
        "(in Python, force=True)"
    )


def _check_unoccupied(folder: Path) -> None:
    """Refuse a folder that a process or a user lives in: replacing it pulls the ground from under them."""
    for what, find in (("the current folder", Path.cwd), ("the home folder", Path.home)):
        with suppress(OSError, RuntimeError):  # a deleted current folder, a user without a home
            place = find().resolve()
            if place.is_relative_to(folder.resolve()):
                held = "is" if place == folder.resolve() else "holds"
                raise OutputExistsError(
                    f"{folder}: {held} {what}, which is never replaced; name a new folder"
                )


def _clear_leftovers(target: Path) -> None:
    """Mend what a killed process left: a half-written folder, or an old one moved aside."""
    if not target.parent.is_dir():
        return
    ours = re.compile(rf"\.{re.escape(target.name)}\.(\d+)-[0-9a-f]{{8}}\.(partial|replaced)")
    for entry in list(target.parent.iterdir()):
        match = ours.fullmatch(entry.name)
        if not match or entry.name in _in_use or _is_alive(int(match[1])):
            continue
        if match[2] == "replaced":
            _put_back_or_remove(entry, target)
        else:
            shutil.rmtree(entry, ignore_errors=True)


def _put_back_or_remove(replaced: Path, target: Path) -> None:
    """Delete the old folder once the new one stands in its place, and not before."""
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    elif replaced.exists():
        replaced.rename(target)


def _is_alive(pid: int) -> bool:
    """Say whether another process has this number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _sync_tree(folder: Path) -> None:
    for entry in folder.rglob("*"):
        sync(entry)
    sync(folder)


def _swap(partial: Path, target: Path, replaced: Path, *, force: bool) -> None:
    if force and target.exists():
        target.rename(replaced)
    try:
        partial.rename(target)  # over an empty folder too, but never over one with something in it
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
            raise OutputExistsError(_not_empty(target)) from error
        raise
