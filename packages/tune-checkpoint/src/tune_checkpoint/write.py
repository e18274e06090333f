"""Writes the files of a layout: several tensors at once, each file whole or absent; goes on after a kill."""

import ctypes
import os
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Event, Lock

import msgspec

from tune_checkpoint.errors import VerificationError
from tune_checkpoint.execute import COPY_BYTES, copied_ranges, tensor_blocks
from tune_checkpoint.layout import FileLayout, Placed
from tune_checkpoint.plain import json_text
from tune_checkpoint.plan import Progress, TensorSlice
from tune_checkpoint.sources import Sources
from tune_checkpoint.threads import do_all

SYNC_FILE_RANGE_WRITE = 2
FLUSH_BYTES = 1 << 26
"""Bytes after which the system is asked to begin writing them to the disk."""

RECORD = ".written.json"
"""In the folder while it is filled: each finished file with the CRC-32 of its tensors."""
PARTIAL = ".partial"
"""Behind the name of a file that is not whole."""


class Record(msgspec.Struct):
    """What is known of the files that are finished."""

    sums: dict[str, dict[str, int]] = {}
    """File name -> tensor name -> CRC-32 of its bytes; of no tensor where none was asked for."""
    damaged: list[str] = []
    """What was found to be wrong with the sources, one sentence each."""


class Stopped(Exception):
    """Another thread has failed, and this one need not go on."""


class Meter:
    """Counts bytes over all threads, and ends them when one has failed."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total = progress, total
        self._done = 0
        self._lock = Lock()
        self.stop = Event()

    def add(self, num_bytes: int) -> None:
        """Report bytes that are done."""
        if self.stop.is_set():
            raise Stopped
        with self._lock:
            self._done += num_bytes
            if self._progress is not None:
                self._progress(self._done, self._total)


def write_layout(
    files: Sequence[FileLayout], folder: Path, meter: Meter, *, jobs: int, checked: bool
) -> Record:
    """Write files into a folder. Those that a killed process had finished there are kept.

    Args:
        files: what to write.
        folder: where; nobody else writes there.
        meter: counts the bytes.
        jobs: how many tensors are worked on at a time.
        checked: take a checksum of each tensor on the way, of the sources too where they state one.
    """
    record = _load_record(folder)
    try:
        _write_files(files, folder, record, meter, jobs=jobs, checked=checked)
    except BaseException:
        for path in folder.glob(f"*{PARTIAL}"):
            path.unlink()
        raise
    return record


def _write_files(
    files: Sequence[FileLayout], folder: Path, record: Record, meter: Meter, *, jobs: int, checked: bool
) -> None:
    # While the disk takes a file, the next one is computed.
    with Sources(compares=checked) as sources, ThreadPoolExecutor(1) as closer:
        closing: list[Future[None]] = []
        for file in files:
            if _is_finished(file, folder, record, checked=checked):
                meter.add(sum(placed.tensor.nbytes for placed in file.tensors))
                continue
            descriptor, sums = _fill_file(file, folder, sources, meter, jobs=jobs, checked=checked)
            damaged = [_damage(tensor) for tensor in sources.damaged]
            sources.damaged.clear()
            closing.append(closer.submit(_close_file, descriptor, folder, file.name, record, sums, damaged))
        for closed in closing:
            closed.result()


def check_written(
    files: Sequence[FileLayout], folder: Path, record: Record, meter: Meter, *, jobs: int
) -> None:
    """Read files again and compare each tensor's checksum with what was computed while it was written.

    Raises:
        VerificationError: they differ.
    """
    written = [(file.name, _written(folder / file.name, placed)) for file in files for placed in file.tensors]
    with Sources() as sources:
        tasks = [
            lambda tensor=tensor, crc=record.sums[name][tensor.name]: _check_tensor(
                tensor, crc, sources, meter
            )
            for name, tensor in written
        ]
        do_all(tasks, jobs, meter.stop)


def forget_record(folder: Path) -> None:
    """Remove what helps to go on: all is done."""
    (folder / RECORD).unlink(missing_ok=True)


def _is_finished(file: FileLayout, folder: Path, record: Record, *, checked: bool) -> bool:
    path = folder / file.name
    known = len(record.sums.get(file.name, {}))
    return (
        file.name in record.sums
        and path.is_file()
        and path.stat().st_size == file.size
        and known == (len(file.tensors) if checked else known)
    )


def _fill_file(
    file: FileLayout, folder: Path, sources: Sources, meter: Meter, *, jobs: int, checked: bool
) -> tuple[int, dict[str, int]]:
    """Write a file under another name, and return its descriptor and the checksums of its tensors."""
    partial = folder / f"{file.name}{PARTIAL}"
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    checked = checked or file.finish is not None
    try:
        _make_room(descriptor, file.size, file.name)
        for offset, content in file.pieces:
            _write_at(descriptor, memoryview(content), offset, file.name)
        tasks = [
            lambda placed=placed: _write_tensor(
                descriptor, file.name, placed, sources, meter, checked=checked
            )
            for placed in file.tensors
        ]
        crcs = do_all(tasks, jobs, meter.stop)
        for offset, content in file.finish(crcs) if file.finish else ():
            _write_at(descriptor, memoryview(content), offset, file.name)
    except BaseException:
        os.close(descriptor)
        raise
    names = [placed.tensor.name for placed in file.tensors]
    return descriptor, dict(zip(names, crcs, strict=True)) if checked else {}


def _close_file(
    descriptor: int, folder: Path, name: str, record: Record, sums: dict[str, int], damaged: list[str]
) -> None:
    """Have a file on the disk, under its name, and note that it is."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    (folder / f"{name}{PARTIAL}").rename(folder / name)
    record.sums[name] = sums
    record.damaged += damaged
    _save_record(folder, record)


def _write_tensor(
    descriptor: int, name: str, placed: Placed, sources: Sources, meter: Meter, *, checked: bool
) -> int:
    offset, crc = placed.offset, 0
    if not checked and (copied := copied_ranges(placed.tensor)):
        for source in copied:
            _copy(source, sources, descriptor, name, offset, meter)
            offset += source.nbytes
        return 0
    flushed = offset
    for block in tensor_blocks(placed.tensor, sources):
        if checked:
            crc = zlib.crc32(block, crc)
        _write_at(descriptor, block, offset, name)
        offset += block.nbytes
        if offset - flushed >= FLUSH_BYTES:
            _start_flush(descriptor, flushed, offset - flushed)
            flushed = offset
        meter.add(block.nbytes)
    assert offset - placed.offset == placed.tensor.nbytes, placed.tensor.name
    return crc


def _make_room(descriptor: int, size: int, name: str) -> None:
    try:
        os.ftruncate(descriptor, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error


def _write_at(descriptor: int, content: memoryview, offset: int, name: str) -> None:
    while content.nbytes:
        try:
            count = os.pwrite(descriptor, content, offset)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{name} at byte {offset}") from error
        content, offset = content[count:], offset + count


def _start_flush(descriptor: int, offset: int, size: int) -> None:
    """Have the system begin to write to the disk, so that less is left to wait for at the end.

    Source: sync_file_range(2), which only Linux has; Python does not offer it.
    """
    if sys.platform == "linux" and (flush := getattr(_libc(), "sync_file_range", None)):
        flush(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), SYNC_FILE_RANGE_WRITE)  # it may fail


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _copy(
    source: TensorSlice, sources: Sources, descriptor: int, name: str, offset: int, meter: Meter
) -> None:
    """Copy within the kernel, which on some file systems copies nothing at all; else through here."""
    done = 0
    # Where the kernel will not, or cannot, the loop below tells whether that is due to reading or to writing.
    with suppress(OSError, AttributeError):
        while done < source.nbytes:
            size = min(FLUSH_BYTES, source.nbytes - done)
            start = source.offset + done
            count = os.copy_file_range(
                sources.descriptor(source.path), descriptor, size, start, offset + done
            )
            if not count:
                break
            _start_flush(descriptor, offset + done, count)
            done += count
            meter.add(count)
    while done < source.nbytes:  # also where the file has become shorter, which is told here
        content = sources.read(source, done, min(COPY_BYTES, source.nbytes - done)).data
        _write_at(descriptor, content, offset + done, name)
        done += content.nbytes
        meter.add(content.nbytes)


def _written(path: Path, placed: Placed) -> TensorSlice:
    tensor = placed.tensor
    return TensorSlice(str(path), tensor.name, tensor.dtype, tensor.shape, placed.offset, tensor.nbytes)


def _check_tensor(tensor: TensorSlice, expected: int, sources: Sources, meter: Meter) -> int:
    crc = 0
    for start in range(0, tensor.nbytes, COPY_BYTES):
        content = sources.read(tensor, start, min(COPY_BYTES, tensor.nbytes - start))
        crc = zlib.crc32(content.data, crc)
        meter.add(content.nbytes)
    if crc != expected:
        raise VerificationError(
            f"{Path(tensor.path).name}: tensor {tensor.name!r} at byte {tensor.offset} does not read as "
            "it was written; the disk or the memory of this machine is faulty. Nothing was kept"
        )
    return crc


def _damage(tensor: TensorSlice) -> str:
    return (
        f"{tensor.path}: tensor {tensor.name!r} at byte {tensor.offset} has not the checksum (CRC-32) that "
        "its file states; it is probably damaged: download or copy it again"
    )


def _load_record(folder: Path) -> Record:
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return Record()


def _save_record(folder: Path, record: Record) -> None:
    beside = folder / f"{RECORD}{PARTIAL}"
    # If it is lost with the power, a file is written again.
    beside.write_bytes(json_text(record).encode())
    beside.rename(folder / RECORD)
