"""Folders and files that are whole or absent."""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tune_checkpoint.errors import OutputExistsError


@contextmanager
def atomic_folder(path: Path | str, *, force: bool = False, key: str | None = None) -> Generator[Path]:
    """Fill a folder that appears at `path` only when it is whole.

    The body writes into the yielded sibling folder; when it ends, its files are synced and the folder is
    renamed. When it raises, the sibling is removed and what stood at `path` stays.

    Args:
        path: the folder to make. Missing parents are made.
        force: replace a folder that has something in it. It is removed after the new one is whole.
        key: hexadecimal digits that stand for what is made. What a killed process has left under the same
            key is yielded again, as is what it leaves where the body is interrupted (no `Exception`).

    Yields:
        The folder to write into.

    Raises:
        OutputExistsError: `path` is a file or lies in one; is the current folder, the home folder or one that
            holds them; has something in it and `force` is not set; or is being made under this key right now.
    """
    target = Path(path).resolve()
    stem = f".{target.name}.{key or secrets.token_hex(8)}"
    partial, replaced = target.with_name(f"{stem}.partial"), target.with_name(f"{stem}.replaced")
    _clear_leftovers(target, keep=partial)
    check_free(target, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _made_and_held(partial, target):
        is_kept = False
        try:
            yield partial
            _sync_tree(partial)
            _swap(partial, target, replaced, force=force)
            sync(target.parent)
        except BaseException as error:
            is_interrupted = key is not None and not isinstance(error, Exception)
            is_kept = is_interrupted and partial.is_dir() and any(partial.iterdir())  # else it is the target
            raise
        finally:
            if not is_kept:
                shutil.rmtree(partial, ignore_errors=True)
            _put_back_or_remove(replaced, target)


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


def _clear_leftovers(target: Path, keep: Path) -> None:
    """Mend what a killed process left, which nobody holds any more: a half-written folder, or an old one."""
    if not target.parent.is_dir():
        return
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]+\.(partial|replaced)")
    for entry in list(target.parent.iterdir()):
        match = ours.fullmatch(entry.name)
        if not match or entry == keep:
            continue
        with suppress(OSError), _held(entry):
            if match[1] == "replaced":
                _put_back_or_remove(entry, target)
            else:
                shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Generator[int]:
    """Hold a folder, under whatever name it goes on, until the block or this process ends.

    Raises:
        BlockingIOError: another holds it.
        OSError: it is a link, or no folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _made_and_held(partial: Path, target: Path) -> Generator[None]:
    with ExitStack() as held:
        while True:
            partial.mkdir(exist_ok=True)
            try:
                descriptor = held.enter_context(_held(partial))
            except FileNotFoundError:
                continue
            except BlockingIOError:
                raise OutputExistsError(
                    f"{target}: is being written by another process; wait for it"
                ) from None
            if os.fstat(descriptor).st_uid != os.geteuid():  # who knows what is in it
                raise OutputExistsError(f"{target}: cannot be made: {partial} is another user's; remove it")
            if partial.exists():
                break
            held.close()  # another process has cleared it up before it was held
        yield


def _put_back_or_remove(replaced: Path, target: Path) -> None:
    """Delete the old folder once the new one stands in its place, and not before."""
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    elif replaced.exists():
        replaced.rename(target)


def _sync_tree(folder: Path) -> None:
    for entry in folder.rglob("*"):
        sync(entry)
    sync(folder)


def _swap(partial: Path, target: Path, replaced: Path, *, force: bool) -> None:
    with ExitStack() as held:
        if force and target.exists():
            held.enter_context(_held(target))  # as `replaced`, until the new one is in its place
            target.rename(replaced)
        try:
            partial.rename(target)  # over an empty folder too, but never over one with something in it
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
                raise OutputExistsError(_not_empty(target)) from error
            raise
