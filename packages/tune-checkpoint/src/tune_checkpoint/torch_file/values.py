"""What a pickle of torch is read into: data without behaviour, checked when it is used."""

from typing import Any

from msgspec import Struct

DTYPES: dict[str, tuple[str | None, int]] = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint64": ("U64", 8),
    "uint32": ("U32", 4),
    "uint16": ("U16", 2),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
    "complex64": ("C64", 8),
    "complex128": (None, 16),
    "qint32": (None, 4),
    "qint8": (None, 1),
    "quint8": (None, 1),
    "quint4x2": (None, 1),
    "quint2x4": (None, 1),
}
"""torch's name of an element type -> safetensors' name, if it has one, and bytes.

A type that is not in it can be named by a file, but not be that of a storage.
"""

STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt32Storage": "qint32",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
"""The classes of `torch` that hold elements of one type."""


class StorageType(Struct, frozen=True, eq=False):
    """A class of storages."""

    dtype: str


class Dtype(Struct, frozen=True, eq=False):
    """An element type of torch."""

    name: str


class Storage(Struct, frozen=True, eq=False):
    """A run of elements in the file."""

    key: str
    """Which run: `0` is the zip entry `data/0`."""
    dtype: str
    numel: int
    view: tuple[int, int] | None = None
    """First element and number of elements, if only a part of the run is meant."""


class Tensor(Struct, frozen=True, eq=False):
    """A tensor over a storage. Numbers are as the pickle gives them; `place` checks them."""

    storage: Storage
    dtype: str
    offset: Any
    shape: Any
    strides: Any
    flags: Any = None
    """torch's metadata: whether the values are the conjugates or negatives of what is stored."""


class Span(Struct, frozen=True):
    """A range of bytes in the file."""

    offset: int
    size: int
    crc32: int | None = None
    """Of these bytes, as the file states it, where it does."""


class Opaque(Struct, frozen=True, eq=False):
    """Something that has no part in the weights."""


OPAQUE = Opaque()


def shown(text: object) -> str:
    """A text from a file, or the type of another value, fit for a message."""
    if not isinstance(text, str):
        return f"a value of type {type(text).__name__}"
    return repr(text) if len(text) <= 200 else f"{text[:200]!r}..."
