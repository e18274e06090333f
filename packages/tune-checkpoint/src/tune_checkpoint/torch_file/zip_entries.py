"""The entries of a zip file as torch writes it: stored as they are, in one folder, described twice alike.

A zip file says where its entries are in a directory at its end and again before each entry. Readers that
trust one or the other can be shown different files; this one demands that both agree and none overlap.

Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 (before an entry), 4.3.12 (directory), 4.3.14 to 4.3.16
(end), 4.5.3 (zip64). CRCs are passed on and not compared here, where the bytes are not read; torch can leave
them out, and writes 0 then.
"""

import struct
from collections.abc import Iterator

from msgspec import Struct

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.values import Span, shown

LOCAL = struct.Struct("<4s5H3L2H")
"""Magic, version, flags, method, time, date, CRC, stored size, size, lengths of name and extra fields."""
CENTRAL = struct.Struct("<4s6H3L5H2L")
"""Magic, two versions, then as LOCAL; length of the comment, disk, attributes (2), local header's offset."""
END = struct.Struct("<4s4H2LH")
"""Magic, disk, directory's disk, entries on this disk and in all, directory's size and offset, comment."""
END64 = struct.Struct("<4sQ2H2L4Q")
"""Magic, size of the rest, two versions, then as END."""
LOCATOR = struct.Struct("<4sLQL")
"""Magic, disk of END64, its offset, number of disks."""

LOCAL_MAGIC, CENTRAL_MAGIC, END_MAGIC = b"PK\3\4", b"PK\1\2", b"PK\5\6"
END64_MAGIC, LOCATOR_MAGIC = b"PK\6\6", b"PK\6\7"
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
"""A field that is full says that the zip64 record or field has the value."""
ZIP64_FIELD = 1
ENCRYPTED, SIZES_FOLLOW, UTF8 = 1, 8, 0x800
"""Flags of an entry. With SIZES_FOLLOW its local header may leave the sizes out."""

MAX_ENTRIES = 500_000
"""More than a model has tensors."""
AGAIN = "it is truncated or damaged: download or copy it again"


class _Described(Struct, frozen=True):
    """An entry as the directory describes it."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc32: int
    size: int
    stored: int
    header: int
    """Offset of its local header."""


def read_entries(file: MappedFile) -> dict[str, Span]:
    """The bytes of each entry of a zip file by name, without the name of the folder that holds them all.

    Raises:
        CorruptFileError: the file breaks the format, contradicts itself, or is laid out to deceive.
        UnsupportedCheckpointError: an entry is compressed or encrypted.
    """
    start, size, count = _find_directory(file)
    described = list(_describe(file, start, size, count))
    _check_stored(file, described)
    entries: dict[str, Span] = {}
    end, previous = 0, ""
    for entry in sorted(described, key=lambda entry: entry.header):
        if entry.header < end:
            raise CorruptFileError(
                f"{file.path}: zip entry {shown(entry.name)} at byte {entry.header} overlaps "
                f"{shown(previous)}, which ends at byte {end}; torch.save writes no such file"
            )
        if entry.name in entries:
            raise CorruptFileError(f"{file.path}: zip entry {shown(entry.name)} stands there twice")
        entries[entry.name] = placed = _place(file, entry, limit=start)
        end, previous = placed.offset + placed.size, entry.name
    return _below_root(file, entries)


def _find_directory(file: MappedFile) -> tuple[int, int, int]:
    """Offset and size of the directory, and the number of its entries, from the records at the end."""
    at = file.size - END.size
    if at < 0 or bytes(file.view[at : at + 4]) != END_MAGIC:
        start = bytes(file.view[:8])
        if file.size and not start.startswith(LOCAL_MAGIC):
            raise CorruptFileError(
                f"{file.path}: begins with {start!r}, as nothing that torch.save writes; it is something "
                "else, or damaged: download or copy it again"
            )
        raise CorruptFileError(f"{file.path}: the last bytes of a zip file are missing; {AGAIN}")
    _, disk, first_disk, here, count, size, start, comment = END.unpack(file.view[at:])
    if comment:
        raise CorruptFileError(
            f"{file.path}: the zip file's end at byte {at} announces a comment that is not there"
        )
    located = bytes(file.view[max(0, at - LOCATOR.size) : at])
    if len(located) == LOCATOR.size and located.startswith(LOCATOR_MAGIC):
        at, (disk, first_disk, here, count, size, start) = _read_zip64_end(
            file, located, (disk, first_disk, here, count, size, start)
        )
    if disk or first_disk or here != count:
        raise UnsupportedCheckpointError(f"{file.path}: a zip file in several parts; join them first")
    if start + size != at or count > size // CENTRAL.size:
        raise CorruptFileError(
            f"{file.path}: the zip directory of {count} entries and {size} bytes at byte {start} does not "
            f"fit before its end at byte {at}; {AGAIN}"
        )
    if count > MAX_ENTRIES:
        raise UnsupportedCheckpointError(f"{file.path}: {count} zip entries, more than {MAX_ENTRIES}")
    return start, size, count


def _read_zip64_end(
    file: MappedFile, locator: bytes, narrow: tuple[int, ...]
) -> tuple[int, tuple[int, int, int, int, int, int]]:
    """Offset and values of the zip64 end record: those of the ordinary one where that has room."""
    _, disk, at, num_disks = LOCATOR.unpack(locator)
    magic, size, _, _, *wide = END64.unpack(file.read(at, END64.size, "the zip64 end record"))
    fits = at + size + 12 == file.size - END.size - LOCATOR.size
    if magic != END64_MAGIC or not fits or disk or num_disks > 1:
        raise CorruptFileError(f"{file.path}: no zip64 end record at byte {at}; {AGAIN}")
    full = (FULL16, FULL16, FULL16, FULL16, FULL32, FULL32)
    if any(short not in (long, limit) for short, long, limit in zip(narrow, wide, full, strict=True)):
        raise CorruptFileError(
            f"{file.path}: the zip64 end record at byte {at} contradicts the ordinary one; {AGAIN}"
        )
    return at, (wide[0], wide[1], wide[2], wide[3], wide[4], wide[5])


def _describe(file: MappedFile, start: int, size: int, count: int) -> Iterator[_Described]:
    """The entries of the directory, which they must fill."""
    at, end = start, start + size
    for _ in range(count):
        fixed = file.view[at : min(at + CENTRAL.size, end)]
        if len(fixed) < CENTRAL.size or bytes(fixed[:4]) != CENTRAL_MAGIC:
            raise CorruptFileError(f"{file.path}: no entry of the zip directory at byte {at}; {AGAIN}")
        fields = CENTRAL.unpack(fixed)
        stop = at + CENTRAL.size + sum(fields[10:13])
        if stop > end:
            raise CorruptFileError(
                f"{file.path}: an entry of the zip directory at byte {at} passes its end; {AGAIN}"
            )
        yield _described(file, at, bytes(file.view[at + CENTRAL.size : stop]), fields)
        at = stop
    if at != end:
        raise CorruptFileError(f"{file.path}: the zip directory ends at byte {at}, not at {end}; {AGAIN}")


def _described(file: MappedFile, at: int, variable: bytes, fields: tuple[int, ...]) -> _Described:
    flags, method, crc32, stored, size = fields[3], fields[4], *fields[7:10]
    name_length, extra_length, disk, header = fields[10], fields[11], fields[13], fields[16]
    raw_name, extra = variable[:name_length], variable[name_length : name_length + extra_length]
    name = _checked_name(file, at, raw_name)
    if disk:
        raise UnsupportedCheckpointError(f"{file.path}: a zip file in several parts; join them first")
    wide = _widened(f"{file.path}: zip entry {shown(name)}", extra, (size, stored, header))
    return _Described(raw_name, name, flags, method, crc32, *wide)


def _check_stored(file: MappedFile, described: list[_Described]) -> None:
    """Every entry lies in the file as it is, neither compressed nor encrypted."""
    if any(entry.name.endswith("/constants.pkl") for entry in described):
        raise UnsupportedCheckpointError(
            f"{file.path}: a TorchScript program, not a checkpoint; save the model's state_dict() instead"
        )
    for entry in described:
        where = f"{file.path}: zip entry {shown(entry.name)}"
        if entry.flags & ENCRYPTED:
            raise UnsupportedCheckpointError(f"{where} is encrypted; save the checkpoint without a password")
        if entry.method:
            raise UnsupportedCheckpointError(
                f"{where} is compressed, which torch.save never does; unpack the file, pack it with `zip -0`"
            )
        if entry.size != entry.stored or entry.flags & ~(SIZES_FOLLOW | UTF8):
            raise CorruptFileError(
                f"{where} is said to be stored as it is, but {entry.size} bytes take {entry.stored}, "
                f"with the flags {entry.flags:#x}; {AGAIN}"
            )


def _checked_name(file: MappedFile, at: int, raw_name: bytes) -> str:
    try:
        name = raw_name.decode()
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{file.path}: the name of the zip entry at byte {at} is not UTF-8") from error
    parts = name.split("/")
    if "" in parts[:-1] or {".", ".."} & {*parts} or "\\" in name or not name.isprintable():
        raise CorruptFileError(
            f"{file.path}: the zip entry at byte {at} is named {name[:200]!r}, which is not a plain path in "
            "a folder; torch.save writes no such file"
        )
    return name


def _widened(where: str, extra: bytes, values: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sizes and offset, each from the zip64 field if it is full."""
    wanted = values.count(FULL32)
    if not wanted:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == ZIP64_FIELD and 8 * wanted <= length <= len(extra) - at - 4:
            wide = iter(struct.unpack_from(f"<{wanted}Q", extra, at + 4))
            size, stored, header = (next(wide) if value == FULL32 else value for value in values)
            return size, stored, header
        at += 4 + length
    raise CorruptFileError(f"{where}: a size or offset beyond 4 GB is announced and not there; {AGAIN}")


def _place(file: MappedFile, entry: _Described, *, limit: int) -> Span:
    """Where the bytes of an entry are, from its local header, which must say what the directory says."""
    what = f"zip entry {shown(entry.name)}"
    fixed = LOCAL.unpack(file.read(entry.header, LOCAL.size, what))
    magic, _, flags, method, _, _, _, stored, size, name_length, extra_length = fixed
    if magic != LOCAL_MAGIC:
        raise CorruptFileError(
            f"{file.path}: {what} is not at byte {entry.header}, as the directory says; {AGAIN}"
        )
    variable = bytes(file.read(entry.header + LOCAL.size, name_length + extra_length, what))
    where = f"{file.path}: {what} at byte {entry.header}"
    sizes = _widened(where, variable[name_length:], (size, stored, 0))[:2]
    later = flags & SIZES_FOLLOW and sizes == (0, 0)
    same_sizes = later or sizes == (entry.size, entry.size)
    if variable[:name_length] != entry.raw_name or (flags, method) != (entry.flags, 0) or not same_sizes:
        raise CorruptFileError(
            f"{where}: its header and the zip directory contradict each other; torch.save writes no such file"
        )
    offset = entry.header + LOCAL.size + len(variable)
    if offset + entry.size > limit:
        raise CorruptFileError(
            f"{where}: takes {entry.size} bytes, but the zip directory begins at byte {limit}; {AGAIN}"
        )
    return Span(offset, entry.size, entry.crc32 or None)


def _below_root(file: MappedFile, entries: dict[str, Span]) -> dict[str, Span]:
    roots = sorted({name.partition("/")[0] for name in entries})
    if len(roots) != 1 or not all("/" in name for name in entries):
        found = ", ".join(roots[:5]) or "nothing"
        raise UnsupportedCheckpointError(
            f"{file.path}: a zip file that torch.save did not write: not one folder, but {found}"
        )
    return {name.partition("/")[2]: entry for name, entry in entries.items()}
