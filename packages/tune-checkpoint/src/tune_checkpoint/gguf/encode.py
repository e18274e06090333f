"""The header of a GGUF file as bytes.

Source: docs/gguf.md of ggml, version 3, little-endian.
"""

import struct
from collections.abc import Mapping, Sequence

from tune_checkpoint.gguf.reader import ARRAY, DEFAULT_ALIGNMENT, STRING
from tune_checkpoint.gguf.types import TYPE_NUMBERS

UINT32, INT32, FLOAT32, BOOL = 4, 5, 6, 7

Pairs = Mapping[str, bytes]
"""Key -> a value as one of the functions here encodes it."""


def uint32(value: int) -> bytes:
    """A count or an id."""
    return struct.pack("<II", UINT32, value)


def float32(value: float) -> bytes:
    """A number."""
    return struct.pack("<If", FLOAT32, value)


def flag(value: bool) -> bytes:
    """True or false."""
    return struct.pack("<I?", BOOL, value)


def text(value: str) -> bytes:
    """A string."""
    return struct.pack("<I", STRING) + _string(value)


def int32s(values: Sequence[int]) -> bytes:
    """An array of whole numbers."""
    return _array(INT32, len(values)) + struct.pack(f"<{len(values)}i", *values)


def float32s(values: Sequence[float]) -> bytes:
    """An array of numbers."""
    return _array(FLOAT32, len(values)) + struct.pack(f"<{len(values)}f", *values)


def texts(values: Sequence[str]) -> bytes:
    """An array of strings."""
    return _array(STRING, len(values)) + b"".join(map(_string, values))


def encode_preamble(pairs: Pairs, num_tensors: int) -> bytes:
    """What stands before the table of tensors: magic, version, counts and metadata."""
    start = b"GGUF" + struct.pack("<IQQ", 3, num_tensors, len(pairs))
    return start + b"".join(_string(key) + value for key, value in pairs.items())


def encode_tensor(name: str, dtype: str, shape: tuple[int, ...], offset: int) -> bytes:
    """A line of the table of tensors.

    Args:
        name: the tensor's.
        dtype: its type, `F32` or `Q4_1`.
        shape: outermost dimension first; the file has it the other way round.
        offset: from the start of the data, a multiple of the alignment.
    """
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return _string(name) + dims + struct.pack("<IQ", TYPE_NUMBERS[dtype], offset)


def aligned(offset: int) -> int:
    """The next offset where a tensor may begin."""
    return -(-offset // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _string(value: str) -> bytes:
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


def _array(kind: int, count: int) -> bytes:
    return struct.pack("<IIQ", ARRAY, kind, count)
