"""`download`. The module's name leaves `tune_hub.download` to the function."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Lock

from msgspec import Struct

from tune_hub.cache import cached_file, link_cached
from tune_hub.client import Client, is_offline, open_client
from tune_hub.download_plan import (
    DownloadPlan,
    PlannedFile,
    State,
    check_folder,
    check_room,
    chosen_files,
    planned,
    reporting,
)
from tune_hub.errors import OfflineError
from tune_hub.fetch import Wanted, fetch_file
from tune_hub.folder import (
    PARTIAL,
    Kept,
    Record,
    forget_partials,
    is_ours,
    kept,
    locked,
    partial_path,
    put_in_place,
    read_record,
    target_path,
    write_record,
)
from tune_hub.growing import Stopped
from tune_hub.listing import RepoFile
from tune_hub.parallel import run_all

MAX_PARALLEL = 8


class DownloadResult(Struct, frozen=True):
    """What is in the folder now."""

    repository: str
    commit: str
    output_dir: Path
    files: tuple[str, ...]
    """Their names in `output_dir`."""
    nbytes: int
    fetched_bytes: int
    """Bytes that came over the network, as the rest was here."""


class Events:
    """What a caller is told on the way; each may be replaced. They are called from several threads."""

    def progress(self, done: int, total: int) -> None:
        """Bytes that are here, and of all."""

    def file_done(self, name: str, size: int, state: State) -> None:
        """A file is whole; `state` is what was here of it before."""

    def waiting(self, folder: Path) -> None:
        """Another download writes to the folder."""


def download(
    model: str,
    output_dir: Path | str,
    *,
    revision: str | None = None,
    token: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    force: bool = False,
    events: Events | None = None,
) -> DownloadResult:
    """Download what training needs of a model.

    A file appears under its name when it is whole and its checksum is right. After a kill, the same call goes
    on where it stopped. What the folder or the shared Hub cache has already is not fetched.

    Args:
        model: as in `plan_download`, and so are `revision`, `token`, `include` and `exclude`.
        output_dir: the folder to fill.
        revision: branch, tag or commit.
        token: of the Hub.
        include: patterns.
        exclude: patterns.
        force: replace files in the folder that are not what the repository has.
        events: what is told on the way.

    Returns:
        What is in the folder.

    Raises:
        RefusedError: the folder holds other files under these names, and `force` is not given.
        DiskError: there is too little room, or the system refused to write.
        DamagedError: what arrived is not what the Hub says it is.
        TransferError: the network or the Hub failed, again and again.
        HubError: as `plan_download` does.
    """
    output_dir, events = Path(output_dir), events or Events()
    snapshot, files = chosen_files(model, revision=revision, token=token, include=include, exclude=exclude)
    client = None if is_offline() else open_client(token)
    with reporting(output_dir), locked(output_dir, lambda: events.waiting(output_dir)):
        plan = planned(snapshot, files, output_dir)  # it may read all files, so only when no other can write
        check_folder(plan, force)
        check_room(plan)
        fetched = _Work(plan, client, events).done()
        forget_partials(output_dir, snapshot.files)
    return DownloadResult(
        repository=snapshot.repository,
        commit=snapshot.commit,
        output_dir=output_dir,
        files=tuple(each.file.path for each in plan.files),
        nbytes=plan.nbytes,
        fetched_bytes=fetched,
    )


class _Work:
    """Brings all files of a plan into its folder, several at a time."""

    def __init__(self, plan: DownloadPlan, client: Client | None, events: Events) -> None:
        self._plan, self._client, self._events = plan, client, events
        self._stop, self._lock = Event(), Lock()
        self._here = plan.nbytes - plan.missing_bytes
        self._fetched = 0
        self._whole: dict[str, Kept] = {}
        self._commit = ""

    def done(self) -> int:
        """Bring them, and return how many bytes were fetched."""
        snapshot, record = self._plan.snapshot, read_record(self._plan.output_dir)
        if record and record.repository == snapshot.repository:
            self._whole |= record.files
            self._commit = snapshot.commit if record.commit == snapshot.commit else ""
        (self._plan.output_dir / PARTIAL).mkdir(exist_ok=True)
        largest_first = sorted(self._plan.files, key=lambda each: -each.file.size)
        run_all([partial(self._bring, each) for each in largest_first], MAX_PARALLEL, self._stop)
        self._remove_stale(record)
        self._commit = snapshot.commit
        self._note()
        return self._fetched

    def _remove_stale(self, record: Record | None) -> None:
        """Leave nothing of another commit beside the new files, now that these are there."""
        for name in self._plan.stale:
            self._whole.pop(name, None)
            if is_ours(self._plan.output_dir, name, record):
                (self._plan.output_dir / name).unlink()

    def _bring(self, wanted: PlannedFile) -> None:
        folder, file = self._plan.output_dir, wanted.file
        target = target_path(folder, file.path)
        state = wanted.state
        if state == "cached":
            source = cached_file(self._plan.snapshot.repository, file)
            if source is None or not link_cached(source, target, file):
                self._moved(-wanted.done, counts=False)
                state = "missing"
        if state in ("partial", "missing"):
            self._fetch(file, target)
        self._check_stop()
        with self._lock:
            self._whole[file.path] = kept(target, file.checksum)
        if state != "present":
            self._note()
        self._events.file_done(file.path, file.size, state)

    def _fetch(self, file: RepoFile, target: Path) -> None:
        if self._client is None:
            raise OfflineError(
                f"{file.path}: HF_HUB_OFFLINE is set, and the shared cache holds it damaged\n"
                "  unset HF_HUB_OFFLINE to download it"
            )
        snapshot = self._plan.snapshot
        wanted = Wanted(self._client, snapshot.repository, snapshot.commit, file)
        begun = partial_path(self._plan.output_dir, file)
        with _naming(file.path):
            fetch_file(wanted, begun, self._moved, self._stop)
            self._check_stop()
            put_in_place(begun, self._plan.output_dir, file)

    def _check_stop(self) -> None:
        """Change nothing more in a folder that may be another's by now."""
        if self._stop.is_set():
            raise Stopped

    def _moved(self, count: int, *, counts: bool = True) -> None:
        with self._lock:
            self._here += count
            self._fetched += max(0, count) if counts else 0
            here = self._here
        self._events.progress(here, self._plan.nbytes)

    def _note(self) -> None:
        with self._lock:
            record = Record(self._plan.snapshot.repository, self._commit, dict(self._whole))
            write_record(self._plan.output_dir, record)


@contextmanager
def _naming(name: str) -> Generator[None]:
    """Have what the system refuses in the block speak of this file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
