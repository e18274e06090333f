"""Where everything stands in a file for `torch.load`, before anything is written.

Source: PKWARE's APPNOTE.TXT 6.3.10, section 4.3; `_save` in torch/serialization.py of PyTorch 2.15 and
caffe2/serialize/inline_container.cc (the entries, and the field `FB` that aligns them). The sizes are known
from the start, so no data descriptor follows. `.format_version` is left out: it would promise that offsets
can be computed as those of torch's own writer.
"""

import zlib
from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod

from msgspec import Struct

from tune_checkpoint.dtypes import ITEM_BYTES
from tune_checkpoint.layout import Piece
from tune_checkpoint.torch_file.state_dict_pickle import TensorSpec, pickled_state_dict
from tune_checkpoint.torch_file.zip_entries import (
    CENTRAL,
    CENTRAL_MAGIC,
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    FULL16,
    FULL32,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR,
    LOCATOR_MAGIC,
    UTF8,
    ZIP64_FIELD,
)

ROOT = "archive"
"""The folder in the zip file. torch.save names it after the file; here the name leaves no trace."""
ALIGNMENT = 64
PADDING_FIELD = b"FB"
ZIP64_VERSION = 45
NEW_YEAR_1980 = 0x21
"""The first date that a zip file can have: the bytes do not depend on the clock either."""


class _Entry(Struct, frozen=True):
    """A zip entry and where it stands."""

    name: bytes
    header: int
    padding: int
    """Bytes before its content beyond what a header without extra fields takes."""
    size: int
    content: bytes | None = None
    """None of a tensor."""

    @property
    def offset(self) -> int:
        """Of its content."""
        return self.header + LOCAL.size + len(self.name) + self.padding


class TorchLayout(Struct, frozen=True):
    """A file for `torch.load`: every byte of it is in a piece or in a tensor."""

    entries: tuple[_Entry, ...]
    directory: int
    """Offset of the zip directory."""

    @property
    def offsets(self) -> tuple[int, ...]:
        """Of each tensor's bytes, from the start of the file."""
        return tuple(entry.offset for entry in self.entries if entry.content is None)

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        offset, records = self.pieces()[-1]
        return offset + len(records)

    def pieces(self, crcs: Sequence[int] | None = None) -> tuple[Piece, ...]:
        """What stands around the tensors. Its length does not depend on the checksums.

        Args:
            crcs: the CRC-32 of each tensor's bytes, in order; without them they are written as 0. torch.load
                does not compare them, `unzip` and Python's zipfile do.
        """
        tensor_crcs = iter(crcs or ())
        pieces: list[Piece] = []
        directory: list[bytes] = []
        for entry in self.entries:
            crc = next(tensor_crcs, 0) if entry.content is None else zlib.crc32(entry.content)
            pieces.append((entry.header, _local_header(entry, crc) + (entry.content or b"")))
            directory.append(_central_header(entry, crc))
        records = b"".join(directory)
        end = _end_records(len(self.entries), len(records), self.directory)
        return (*pieces, (self.directory, records + end))


def torch_layout(tensors: Sequence[TensorSpec], also: Mapping[str, str] | None = None) -> TorchLayout:
    """Lay out a state dict, its tensors in the given order and each on a multiple of 64 bytes.

    Args:
        tensors: name, type (as safetensors spells it) and shape of each.
        also: further name -> name of the tensor that it means, as tied weights have them.

    Raises:
        ValueError: two tensors have the same name.
    """
    names = [name for name, _, _ in tensors] + list(also or ())
    if len(set(names)) != len(names):
        raise ValueError("two tensors have the same name")
    sizes = [prod(shape) * ITEM_BYTES[dtype] for _, dtype, shape in tensors]
    contents = chain(
        (("data.pkl", pickled_state_dict(tensors, also)), ("byteorder", b"little")),
        ((f"data/{index}", size) for index, size in enumerate(sizes)),
        (("version", b"3\n"),),
    )
    entries: list[_Entry] = []
    end = 0
    for name, content in contents:
        entries.append(_placed(f"{ROOT}/{name}".encode(), end, content))
        end = entries[-1].offset + entries[-1].size
    return TorchLayout(tuple(entries), end)


def _placed(name: bytes, header: int, content: bytes | int) -> _Entry:
    """An entry whose header stands at `header`; of a tensor only the size is known."""
    size = content if isinstance(content, int) else len(content)
    extra = len(_zip64_field((size, size))) + 4
    unaligned = header + LOCAL.size + len(name) + extra
    padding = extra + -unaligned % ALIGNMENT
    return _Entry(name, header, padding, size, None if isinstance(content, int) else content)


def _local_header(entry: _Entry, crc: int) -> bytes:
    zip64 = _zip64_field((entry.size, entry.size))
    filling = entry.padding - len(zip64) - 4
    extra = zip64 + PADDING_FIELD + filling.to_bytes(2, "little") + b"Z" * filling
    size = min(entry.size, FULL32)
    fields = (ZIP64_VERSION, UTF8, 0, 0, NEW_YEAR_1980, crc, size, size, len(entry.name), len(extra))
    return LOCAL.pack(LOCAL_MAGIC, *fields) + entry.name + extra


def _central_header(entry: _Entry, crc: int) -> bytes:
    zip64 = _zip64_field((entry.size, entry.size, entry.header))
    size, header = min(entry.size, FULL32), min(entry.header, FULL32)
    fields = (ZIP64_VERSION, ZIP64_VERSION, UTF8, 0, 0, NEW_YEAR_1980, crc, size, size)
    lengths = (len(entry.name), len(zip64), 0)
    return CENTRAL.pack(CENTRAL_MAGIC, *fields, *lengths, 0, 0, 0, header) + entry.name + zip64


def _zip64_field(values: tuple[int, ...]) -> bytes:
    """The extra field with those of the values that do not fit into four bytes."""
    wide = [value.to_bytes(8, "little") for value in values if value >= FULL32]
    if not wide:
        return b""
    return ZIP64_FIELD.to_bytes(2, "little") + (8 * len(wide)).to_bytes(2, "little") + b"".join(wide)


def _end_records(count: int, size: int, start: int) -> bytes:
    """The end of the zip file, always in zip64 as well, as torch writes it."""
    version = ZIP64_VERSION
    wide = END64.pack(END64_MAGIC, END64.size - 12, version, version, 0, 0, count, count, size, start)
    locator = LOCATOR.pack(LOCATOR_MAGIC, 0, start + size, 1)
    few = min(count, FULL16)
    narrow = END.pack(END_MAGIC, 0, 0, few, few, min(size, FULL32), min(start, FULL32), 0)
    return wide + locator + narrow
