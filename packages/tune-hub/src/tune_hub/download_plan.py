"""What a download would do: which files, what is here of them already, and what stands in the way."""

import errno
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from msgspec import Struct

from tune_hub.aliases import repository_of
from tune_hub.cache import cached_file, cached_snapshot
from tune_hub.choose import choose_files
from tune_hub.client import is_offline, open_client
from tune_hub.errors import DiskError, RefusedError
from tune_hub.folder import Record, check_place, is_ours, is_whole, partial_path, read_record
from tune_hub.listing import RepoFile, Snapshot, check_access, list_snapshot

ROOM_TO_SPARE_BYTES = 1 << 20

State = Literal["present", "cached", "partial", "missing"]
"""Whole in the folder; whole in the shared cache; begun; not here at all."""


class PlannedFile(Struct, frozen=True):
    """A file, and what is here of it."""

    file: RepoFile
    state: State
    done: int = 0
    """Bytes that need not be fetched."""


class DownloadPlan(Struct, frozen=True):
    """What a download would do."""

    snapshot: Snapshot
    output_dir: Path
    files: tuple[PlannedFile, ...]
    replaced: tuple[str, ...]
    """Files in the folder that are not what the repository has now."""
    stale: tuple[str, ...] = ()
    """Files that a download of another commit or repository left there, and that this one has not."""

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(planned.file.size for planned in self.files)

    @property
    def missing_bytes(self) -> int:
        """Bytes to be fetched."""
        return sum(planned.file.size - planned.done for planned in self.files)


def plan_download(
    model: str,
    output_dir: Path | str,
    *,
    revision: str | None = None,
    token: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> DownloadPlan:
    """Say what a download would fetch; files are read, and none is written.

    Args:
        model: a short name, or `organisation/model`.
        output_dir: the folder it would fill.
        revision: branch, tag or commit; None is the main branch.
        token: of the Hub, used before `HF_TOKEN` and that of `hf auth login`.
        include: patterns of file names; None takes what training needs.
        exclude: patterns of what is left out.

    Raises:
        HubError: it cannot be seen or reached, or has no file of the kind.
    """
    snapshot, files = chosen_files(model, revision=revision, token=token, include=include, exclude=exclude)
    with reporting(Path(output_dir)):
        return planned(snapshot, files, Path(output_dir))


def chosen_files(
    model: str, *, revision: str | None, token: str | None, include: Sequence[str], exclude: Sequence[str]
) -> tuple[Snapshot, tuple[RepoFile, ...]]:
    """Ask which files there are, and choose; arguments and errors are those of `plan_download`."""
    repository = repository_of(model)
    if is_offline():
        snapshot = cached_snapshot(repository, revision)
    else:
        client = open_client(token)
        snapshot = list_snapshot(client, repository, revision)
        if snapshot.gated:
            check_access(client, repository)
    return snapshot, choose_files(repository, snapshot.files, include=include, exclude=exclude)


def planned(snapshot: Snapshot, files: Sequence[RepoFile], folder: Path) -> DownloadPlan:
    """Look what is here of some files. Those that nobody noted to be whole are read."""
    record = read_record(folder)
    found: list[PlannedFile] = []
    replaced: list[str] = []
    for file in files:
        check_place(folder, file.path)
        if is_whole(folder, file, record):
            found.append(PlannedFile(file, "present", file.size))
            continue
        if (folder / file.path).exists():
            replaced.append(file.path)
        found.append(_not_there(snapshot, file, folder))
    return DownloadPlan(snapshot, folder, tuple(found), tuple(replaced), _stale(snapshot, folder, record))


def _stale(snapshot: Snapshot, folder: Path, record: Record | None) -> tuple[str, ...]:
    """What would stand beside the new files as if it belonged to them, such as weights in other shards."""
    if record is None:
        return ()
    now = {file.path: file.checksum for file in snapshot.files}
    return tuple(
        name
        for name, noted in sorted(record.files.items())
        if now.get(name) != noted.checksum and is_ours(folder, name, record)
    )


def _not_there(snapshot: Snapshot, file: RepoFile, folder: Path) -> PlannedFile:
    if cached_file(snapshot.repository, file):
        return PlannedFile(file, "cached", file.size)
    try:
        begun = min(partial_path(folder, file).stat().st_size, file.size)
    except OSError:
        begun = 0
    return PlannedFile(file, "partial" if begun else "missing", begun)


def check_folder(plan: DownloadPlan, force: bool) -> None:
    """Make sure that nothing is lost that was not said to be.

    Raises:
        RefusedError: the folder holds other files under these names.
    """
    if force:
        return
    record = read_record(plan.output_dir)
    name = plan.output_dir
    if record and record.repository != plan.snapshot.repository:
        raise RefusedError(
            f"{name}: holds {record.repository}, and not {plan.snapshot.repository}\n"
            "  choose another folder with --output-dir, or replace it with --force"
        )
    others = [*plan.replaced, *(stale for stale in plan.stale if stale not in plan.replaced)]
    if not others:
        return
    some = f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}"
    if record and record.commit and record.commit != plan.snapshot.commit:
        raise RefusedError(
            f"{name}: holds commit {record.commit[:8]}; {plan.snapshot.commit[:8]} has not the same files: "
            f"{some}\n  keep it with --revision {record.commit}, update it with --force, or choose another "
            "folder with --output-dir"
        )
    if record and not record.commit:
        raise RefusedError(
            f"{name}: holds files of a download that was broken off and is not this one: {some}\n"
            "  replace them with --force, or choose another folder with --output-dir"
        )
    raise RefusedError(
        f"{name}: holds other files under these names: {some}\n"
        "  choose another folder with --output-dir, or replace them with --force"
    )


def check_room(plan: DownloadPlan) -> None:
    """Make sure that what is missing fits on the disk.

    Raises:
        DiskError: it does not.
    """
    free = shutil.disk_usage(plan.output_dir).free
    wanted = plan.missing_bytes + ROOM_TO_SPARE_BYTES
    if plan.missing_bytes and wanted > free:
        raise DiskError(
            f"{plan.output_dir}: {wanted / 1e9:,.2f} GB are to be fetched, {free / 1e9:,.2f} GB are free "
            "there\n  make room, or choose another disk with --output-dir"
        )


@contextmanager
def reporting(folder: Path) -> Generator[None]:
    """Tell what the system refuses in the block."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = (
            "make room, then run the same command again; it goes on where it stopped"
            if full
            else "choose another folder with --output-dir"
        )
        raise DiskError(f"{folder}: cannot be written: {error.strerror}{where}\n  {hint}") from None
