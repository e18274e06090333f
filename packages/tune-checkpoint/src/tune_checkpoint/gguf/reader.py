"""The header of a GGUF file: metadata and tensor table, every count, length and offset checked before use.

Source: docs/gguf.md of ggml, versions 2 and 3, little-endian. The `gguf`
package's own reader takes seconds and keeps an object per string.
"""

import struct
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

from msgspec import Struct

from tune_checkpoint.dtypes import ITEM_BYTES
from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.gguf.types import BLOCK_TYPES, BLOCKS, PLAIN_TYPES
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import TensorSlice

SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")
"""Of a string, before its bytes."""
MAX_DIMS = 4
MAX_ARRAY_DEPTH = 4
MAX_ITEMS = 1 << 22
"""Of all arrays together, which take more memory than they have bytes: ten times what a vocabulary has."""
DEFAULT_ALIGNMENT = 32
SMALLEST_ENTRY_BYTES = 13  # of a metadata pair: length, type, one byte of value
SMALLEST_TENSOR_BYTES = 32  # of a tensor's entry: length, dimension count, one dimension, type, offset


class GgufHeader(Struct, frozen=True):
    """What a GGUF file says about itself."""

    path: Path
    metadata: Metadata
    tensors: tuple[TensorSlice, ...]
    """In the order of the file's table; offsets are from the start of the file."""


def read_gguf_header(file: MappedFile) -> GgufHeader:
    """Read the header of a mapped GGUF file.

    Raises:
        CorruptFileError: the file breaks the format; the message names the offset.
        UnsupportedCheckpointError: its version, byte order or a tensor's type cannot be read.
    """
    cursor = _Cursor(file)
    _check_version(cursor)
    num_tensors = cursor.count("the number of tensors", SMALLEST_TENSOR_BYTES)
    num_pairs = cursor.count("the number of metadata pairs", SMALLEST_ENTRY_BYTES)
    values: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = cursor.string("a metadata key")
        if key in values:
            raise CorruptFileError(f"{file.path}: metadata key {key!r} stands there twice")
        values[key] = cursor.value(cursor.unsigned(4, f"the type of {key}"), key)
    metadata = Metadata(file.path, values)
    entries = [_entry(cursor) for _ in range(num_tensors)]
    alignment = _alignment(metadata)
    data_start = -(-cursor.offset // alignment) * alignment
    tensors = tuple(_place(file, entry, data_start, alignment) for entry in entries)
    _check_apart(file, tensors)
    return GgufHeader(file.path, metadata, tensors)


class _Cursor:
    """Reads forward through the header; to pass the end of the file is an error with its offset."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.offset = 0
        self._num_items = 0

    def take(self, num_bytes: int, what: str) -> memoryview:
        taken = self.file.read(self.offset, num_bytes, what)
        self.offset += num_bytes
        return taken

    def unsigned(self, num_bytes: int, what: str) -> int:
        return int.from_bytes(self.take(num_bytes, what), "little")

    def count(self, what: str, smallest_bytes: int) -> int:
        """A count of things of at least `smallest_bytes` each, which must fit into the rest of the file."""
        start = self.offset
        count = self.unsigned(8, what)
        if count * smallest_bytes > self.file.size - self.offset:
            raise CorruptFileError(
                f"{self.file.path}: {what} at byte {start} is {count}, more than the file has room for; "
                "it is truncated or damaged: download or copy it again"
            )
        return count

    def string(self, what: str) -> str:
        start = self.offset
        length = self.count(f"the length of {what}", 1)
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise CorruptFileError(
                f"{self.file.path}: {what} at byte {start} is not UTF-8: {error}"
            ) from error

    def value(self, kind: int, key: str, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self.scalars(kind, 1, key)[0]
        if kind == STRING:
            return self.string(key)
        if kind == ARRAY and depth < MAX_ARRAY_DEPTH:
            return self.array(key, depth)
        raise CorruptFileError(f"{self.file.path}: {key} at byte {self.offset} has the unknown type {kind}")

    def array(self, key: str, depth: int) -> list[Any]:
        kind = self.unsigned(4, f"the element type of {key}")
        smallest = SCALARS[kind].size if kind in SCALARS else 8
        start = self.offset
        count = self.count(f"the length of {key}", smallest)
        self._num_items += count
        if self._num_items > MAX_ITEMS:
            raise UnsupportedCheckpointError(
                f"{self.file.path}: {key} at byte {start} has {count} items, with which the arrays of the "
                f"metadata have {self._num_items}; at most {MAX_ITEMS} are read"
            )
        if kind in SCALARS:
            return list(self.scalars(kind, count, key))
        if kind == STRING:
            return self.strings(count, key)
        return [self.value(kind, key, depth + 1) for _ in range(count)]

    def strings(self, count: int, key: str) -> list[str]:
        """Strings one behind the other: each costs little, since a vocabulary has hundreds of thousands."""
        view, size, at = self.file.view, self.file.size, self.offset
        texts: list[str] = []
        with suppress(UnicodeDecodeError, struct.error):
            for _ in range(count):
                start = at + LENGTH.size
                end = start + LENGTH.unpack_from(view, at)[0]
                if end > size:
                    break
                texts.append(str(view[start:end], "utf-8"))
                at = end
        self.offset = at
        # What could not be read is read again by who can say what is wrong with it.
        return texts + [self.string(key) for _ in range(count - len(texts))]

    def scalars(self, kind: int, count: int, key: str) -> tuple[Any, ...]:
        scalar = SCALARS[kind]
        return struct.unpack(f"<{count}{scalar.format[1:]}", self.take(scalar.size * count, key))


class _Entry(Struct, frozen=True):
    """A line of the tensor table."""

    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int
    """From the start of the data."""


def _check_version(cursor: _Cursor) -> None:
    path = cursor.file.path
    if bytes(cursor.take(4, "the magic number")) != b"GGUF":
        raise CorruptFileError(f"{path}: does not start with GGUF; this is not a GGUF file, or it is damaged")
    version = cursor.unsigned(4, "the version")
    if version in (2, 3):
        return
    if version & 0xFFFF == 0:
        raise UnsupportedCheckpointError(
            f"{path}: a big-endian GGUF file; only little-endian ones can be read"
        )
    raise UnsupportedCheckpointError(f"{path}: GGUF version {version}; versions 2 and 3 can be read")


def _entry(cursor: _Cursor) -> _Entry:
    name = cursor.string("a tensor's name")
    num_dims = cursor.unsigned(4, f"the number of dimensions of {name!r}")
    if not 1 <= num_dims <= MAX_DIMS:
        raise CorruptFileError(
            f"{cursor.file.path}: tensor {name!r} has {num_dims} dimensions; 1 to 4 are possible"
        )
    # ggml names the innermost dimension first, numpy and torch the outermost.
    shape = tuple(cursor.unsigned(8, f"the shape of {name!r}") for _ in range(num_dims))[::-1]
    type_number = cursor.unsigned(4, f"the type of {name!r}")
    return _Entry(name, shape, type_number, cursor.unsigned(8, f"the offset of {name!r}"))


def _alignment(metadata: Metadata) -> int:
    alignment = metadata.integer("general.alignment")
    if alignment is None:
        return DEFAULT_ALIGNMENT
    if alignment <= 0 or alignment & (alignment - 1):
        raise CorruptFileError(
            f"{metadata.path}: general.alignment is {alignment}; it must be a power of two"
        )
    return alignment


def _place(file: MappedFile, entry: _Entry, data_start: int, alignment: int) -> TensorSlice:
    """Where a tensor of the table lies, checked against type, alignment and file size."""
    where = f"{file.path}: tensor {entry.name!r}"
    if 0 in entry.shape:
        raise CorruptFileError(f"{where}: shape {list(entry.shape)} has an empty dimension")
    if entry.offset % alignment:
        raise CorruptFileError(
            f"{where}: offset {entry.offset} is not a multiple of the alignment {alignment}"
        )
    dtype = _type_name(where, entry.type_number)
    elements, block_bytes = BLOCKS[dtype] if dtype in BLOCKS else (1, ITEM_BYTES[dtype])
    if entry.shape[-1] % elements:
        raise CorruptFileError(
            f"{where}: rows of {entry.shape[-1]} do not divide into {dtype} blocks of {elements}"
        )
    nbytes = prod(entry.shape) // elements * block_bytes
    file.read(data_start + entry.offset, nbytes, f"tensor {entry.name!r}")
    return TensorSlice(str(file.path), entry.name, dtype, entry.shape, data_start + entry.offset, nbytes)


def _type_name(where: str, number: int) -> str:
    if number in PLAIN_TYPES:
        return PLAIN_TYPES[number]
    if number in BLOCK_TYPES:
        return BLOCK_TYPES[number][0]
    known = ", ".join((*PLAIN_TYPES.values(), *BLOCKS))
    raise UnsupportedCheckpointError(f"{where}: type number {number} cannot be read; these can: {known}")


def _check_apart(file: MappedFile, tensors: tuple[TensorSlice, ...]) -> None:
    """No name twice, no byte in two tensors."""
    names: set[str] = set()
    end, previous = 0, ""
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.name in names:
            raise CorruptFileError(f"{file.path}: tensor {tensor.name!r} stands there twice")
        names.add(tensor.name)
        if tensor.offset < end:
            raise CorruptFileError(
                f"{file.path}: tensor {tensor.name!r} at byte {tensor.offset} overlaps {previous!r}, "
                f"which ends at byte {end}"
            )
        end, previous = tensor.offset + tensor.nbytes, tensor.name
