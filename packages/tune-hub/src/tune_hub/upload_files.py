"""Which files of a folder are published, and whether they stay what they were."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from tune_hub.client import hub_cache
from tune_hub.errors import DiskError, RefusedError
from tune_hub.listing import RepoFile

_CHUNK_BYTES = 1 << 20
_LEFT_OUT = re.compile(r"\..*|__pycache__|.*\.(pyc|part|partial|incomplete|tmp|lock)|.*~", re.IGNORECASE)
"""Names of what no reader of a repository wants: hidden, cached, half written."""
_TRAINING = re.compile(
    r"checkpoints|checkpoint-\d+|global_step\d+"
    r"|(optimizer|scheduler|scaler)([._-].*)?\.(pt|pth|bin|safetensors)|.*optim_states\.pt|rng_state.*\.pth"
    r"|.*\.distcp|optimizer_\d+|mp_rank_.*|recipe_state(\.pt)?|random_states_\d+\.pkl"
    r"|training_args\.bin|trainer_state\.json|wandb|events\.out\.tfevents\..*",
    re.IGNORECASE,
)
"""Names of what a training goes on from, which is several times larger than the model, and of its logs.

The arguments of a training hold the folders of this machine, and the token that it was given.
"""
_RUN = "run.json"
"""A folder with such a file is a run, and no part of the model that it lies beside."""


class LocalFile(Struct, frozen=True):
    """A file that is to be published."""

    path: str
    """Where to in the repository, `/` between folders."""
    size: int
    """Bytes."""
    source: Path | None = None
    """Where it lies, links followed; None if it is made for the upload."""
    content: bytes = b""
    """What it is, if it is made for the upload."""
    stamp: tuple[int, ...] = ()
    """By which a change on the disk is noticed."""


def files_of(path: Path | str, *, include_optimizer: bool = False) -> tuple[LocalFile, ...]:
    """Return what of a folder is published, or the one file.

    Hidden files, caches, files that are half written, runs in a folder and, unless it is asked for, the state
    of the optimizer and the logs of the training are left out.

    Args:
        path: a folder or a file.
        include_optimizer: take what a training goes on from, too.

    Raises:
        RefusedError: a link leads out of the folder, or there is nothing to publish.
        DiskError: it cannot be read.
    """
    path = Path(path)
    if path.is_file():
        return (_local_file(path, path.name),)
    if not path.is_dir():
        raise RefusedError(f"{path}: {'neither a file nor a folder' if path.exists() else 'not found'}")
    left_out = (_LEFT_OUT,) if include_optimizer else (_LEFT_OUT, _TRAINING)
    found = tuple(_walk(path, "", path.resolve(), left_out))
    if not found:
        raise RefusedError(f"{path}: no file in it to publish")
    return found


def all_files_of(folder: Path, prefix: str) -> tuple[LocalFile, ...]:
    """Return every file of a folder, hidden ones too, as they are named below `prefix` in a repository."""
    return tuple(_walk(folder, f"{prefix}/", folder.resolve(), ()))


def with_contents(files: Sequence[LocalFile], contents: Mapping[str, bytes]) -> tuple[LocalFile, ...]:
    """Return the files with some replaced or added, by their paths in the repository."""
    kept = [file for file in files if file.path not in contents]
    made = [LocalFile(path, len(content), content=content) for path, content in contents.items()]
    return tuple(sorted([*kept, *made], key=lambda file: file.path))


def is_same(file: LocalFile, remote: RepoFile, read: Callable[[int], object] = int) -> bool:
    """Whether a file of the repository has the same content. Reads the file only if the sizes agree.

    Args:
        file: ours.
        remote: theirs.
        read: is told how many bytes were read each time.
    """
    if file.size != remote.size:
        return False
    digest = remote.new_digest()
    for chunk in _chunks(file):
        digest.update(chunk)
        read(len(chunk))
    return digest.hexdigest() == remote.checksum


def check_unchanged(files: Sequence[LocalFile]) -> None:
    """Make sure that files are what they were when they were listed.

    Raises:
        RefusedError: one has changed, or is gone.
    """
    for file in files:
        if file.source is not None and _stamp(file.source) != file.stamp:
            raise changed(file)


def changed(file: LocalFile) -> RefusedError:
    """Return the error of a file that another program writes to."""
    return RefusedError(
        f"{file.source}: was changed during the upload\n"
        "  run the same command again when nothing writes to it; what was sent is not sent again"
    )


def _walk(folder: Path, prefix: str, root: Path, left_out: Sequence[re.Pattern[str]]) -> Iterator[LocalFile]:
    """Yield files in the order of their names; `root` is the folder that no link may leave."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DiskError(f"{folder}: cannot be read: {error.strerror}") from None
    for entry in entries:
        path, name = Path(entry.path), prefix + entry.name
        if any(pattern.fullmatch(entry.name) for pattern in left_out):
            continue
        if entry.is_dir(follow_symlinks=False):
            if left_out and (path / _RUN).is_file():
                continue
            yield from _walk(path, f"{name}/", root, left_out)
            continue
        if entry.is_symlink():
            _check_link(path, root)
        if not path.is_file():
            raise RefusedError(f"{path}: neither a file nor a folder\n  move it away; it cannot be published")
        yield _local_file(path, name)


def _check_link(path: Path, root: Path) -> None:
    """Refuse a link that would publish what the user does not see to be part of the folder."""
    target = path.resolve()
    if not target.is_file():
        what = "to a folder" if target.is_dir() else "to nothing"
        raise RefusedError(f"{path}: a link {what}, {target}\n  put the files themselves there, or remove it")
    cache = hub_cache().resolve()
    if not (target.is_relative_to(root) or target.is_relative_to(cache)):
        raise RefusedError(
            f"{path}: a link out of the folder, to {target}\n  copy the file there if it is to be published"
        )


def _local_file(path: Path, name: str) -> LocalFile:
    if not name.isprintable() or "\\" in name:
        raise RefusedError(f"{str(path)!a}: a name that a repository cannot have\n  rename the file")
    source = path.resolve()
    try:
        with source.open("rb"):
            stamp = _stamp(source)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from None
    assert stamp
    return LocalFile(name, stamp[0], source, stamp=stamp)


def _stamp(path: Path) -> tuple[int, ...]:
    """Return size, time of the last change and identity of a file; nothing if it is gone."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _chunks(file: LocalFile) -> Iterator[bytes]:
    if file.source is None:
        yield file.content
        return
    try:
        with file.source.open("rb") as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise DiskError(f"{file.source}: cannot be read: {error.strerror}") from None
