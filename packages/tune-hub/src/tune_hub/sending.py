"""Files on their way to the Hub: opened so that progress is seen and a change on the disk is noticed."""

import io
import re
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from tune_hub.client import RETRIED_STATUSES, Client
from tune_hub.errors import TransferError
from tune_hub.upload_files import LocalFile, changed, check_unchanged
from tune_hub.waiting import LONGEST_ASKED_WAIT_S

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import CommitOperationAdd


class StoppedError(Exception):
    """The user has stopped the upload: said to the threads that read."""


class Meter:
    """Counts the bytes that went out, once each: what is sent again after a failure is not progress."""

    def __init__(self, total: int, progress: Callable[[int, int], object] | None) -> None:
        self._total = total
        self._progress = progress
        self._reached: dict[str, int] = {}
        self._done = 0
        self._lock = threading.Lock()
        self.sent = 0
        """Bytes that were really read, to be sent."""
        self.stop = threading.Event()
        self.failure: Exception | None = None
        """The first, which ends the other transfers."""

    def reach(self, file: LocalFile, position: int) -> None:
        """Say how far a file was read."""
        if self.stop.is_set():
            raise StoppedError
        with self._lock:
            self.sent += max(0, position - self._reached.get(file.path, 0))
            self._advance(file, position)

    def finish(self, files: Sequence[LocalFile]) -> None:
        """Say that files are on the Hub, whether they were sent or were there."""
        with self._lock:
            for file in files:
                self._advance(file, file.size)

    def _advance(self, file: LocalFile, position: int) -> None:
        before = self._reached.get(file.path, 0)
        if position > before:
            self._reached[file.path] = position
            self._done += position - before
        if self._progress:
            self._progress(self._done, self._total)

    @contextmanager
    def opened(self, file: LocalFile) -> Generator[BinaryIO]:
        """Open a file that is sent.

        What fails while it is open ends the transfers of the other files at their next read.

        Raises:
            RefusedError: it is not what it was, now or when it was sent.
        """
        if self.stop.is_set():
            raise StoppedError
        try:
            check_unchanged([file])
            with _Watched(_raw(file), lambda position: self.reach(file, position)) as watched:
                yield watched
            check_unchanged([file])
        except Exception as error:
            self._fail(changed(file) if isinstance(error, FileNotFoundError) else error)
            if isinstance(error, FileNotFoundError):
                raise changed(file) from None
            raise

    def _fail(self, error: Exception) -> None:
        with self._lock:
            if not self.stop.is_set():
                self.failure = error
                self.stop.set()


def _raw(file: LocalFile) -> io.RawIOBase:
    if file.source is None:
        return cast("io.RawIOBase", io.BytesIO(file.content))  # reads as one
    return io.FileIO(file.source)


class _Watched(io.BufferedReader):
    """A file that says how far it was read."""

    def __init__(self, raw: io.RawIOBase, reach: Callable[[int], object]) -> None:
        super().__init__(raw, 1 << 20)
        self._reach = reach

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._reach(self.tell())
        return data


def operations(files: Sequence[LocalFile], meter: Meter) -> "dict[str, CommitOperationAdd]":
    """Return what huggingface_hub calls an addition of each file, by its path in the repository.

    They name files, so that hf-xet, if it is there, reads them by itself; HTTP reads them through `meter`.
    """
    from huggingface_hub import CommitOperationAdd

    class Addition(CommitOperationAdd):
        """An addition whose content is read through the meter."""

        @contextmanager
        def as_file(self, with_tqdm: bool = False) -> Generator[BinaryIO]:
            with meter.opened(by_path[self.path_in_repo]) as opened:
                yield opened

    by_path = {file.path: file for file in files}
    check_unchanged(files)
    return {
        file.path: Addition(path_in_repo=file.path, path_or_fileobj=file.source or file.content)
        for file in files
    }


def run_stoppable(work: Callable[[], object], meter: Meter) -> None:
    """Do work whose threads read through a meter, so that Ctrl-C ends it at once.

    Raises:
        Exception: what the work raised; of the wrapping that threads put around it, the inside.
    """
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # raised again by who waits
            failures.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
    except BaseException:
        meter.stop.set()
        thread.join(1.0)  # one that waits for an answer is left to it
        raise
    if failures:
        error = meter.failure or failures[0]  # others ended because of that one
        while isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__
        raise error


@contextmanager
def waits_told(client: Client, notice: Callable[[str], object] | None) -> Generator[None]:
    """Let nobody wait in silence while huggingface_hub does what a busy server asks for.

    Args:
        client: whose connections.
        notice: told once that there is a wait.

    Raises:
        TransferError: in the block, a server asks for a longer wait than anybody has the patience for.

    Source: RFC 9110, 10.2.3; draft-ietf-httpapi-ratelimit-headers for what the Hub says with a 429.
    """
    told = threading.Event()

    def look(response: "httpx2.Response") -> None:
        seconds = _asked_wait_s(response) if response.status_code in RETRIED_STATUSES else 0
        if seconds > LONGEST_ASKED_WAIT_S:
            raise TransferError(
                f"{response.request.url.host}: asks us to wait {seconds} s ({response.status_code})\n"
                "  run the same command again after that; it goes on where it stopped"
            )
        if seconds and notice and not told.is_set():
            told.set()
            notice(f"the Hub asks us to wait {seconds} s")

    hooks = client.session.event_hooks["response"]
    hooks.append(look)
    try:
        yield
    finally:
        hooks.remove(look)


def _asked_wait_s(response: "httpx2.Response") -> int:
    spent = re.search(r"\br=0\b.*\bt=(\d+)", response.headers.get("RateLimit", ""))
    after = response.headers.get("Retry-After", "").strip()
    if spent and response.status_code == 429:
        return int(spent[1])
    return int(after) if after.isdecimal() else 0


def uses_xet() -> bool:
    """Whether huggingface_hub sends by hf-xet, and not by HTTP."""
    from importlib.util import find_spec

    from huggingface_hub import constants

    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None
