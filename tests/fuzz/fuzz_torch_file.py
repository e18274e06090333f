"""Fuzzes the reader of torch's files: whole files of both formats, and pickles in a sound zip file."""

from math import prod
from pathlib import Path

from fuzz.fuzzing import Target, fuzz_target
from fuzz.pickles import (
    HOOKS,
    beside_weights,
    counts,
    legacy,
    name,
    number,
    pickled,
    storage,
    tensor,
    text,
    tuple_of,
    zipped,
)

from tune_checkpoint.dtypes import ITEM_BYTES
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.layout import torch_layout
from tune_checkpoint.torch_file.reader import read_torch_file

_PART = tuple_of(text("1"), number(2), number(3))
_VIEW = storage("0", "FloatStorage", 6, _PART)
_ROOT = storage("0", "FloatStorage", 6, b"N")
_FLOATS = (6).to_bytes(8, "little") + bytes(24)
_WRAPPED = pickled(
    text("model"),
    b"}(" + text("w") + tensor() + text("v") + tensor(counts(3, 2), counts(1, 3)) + b"u",
    text("optimizer"),
    b"}(" + text("lr") + b"G?\xb9\x99\x99\x99\x99\x99\x9a" + number(3) + b"](K\1K\2eu",
)
_PICKLES = (
    beside_weights(b"N"),
    _WRAPPED,
    b"\x80\4\x95\0\0\0\0\0\0\0\0}\x94(\x8c\1w" + tensor() + b"\x94\x8c\1v\x8f(K\1\x90u.",
    b"\x80\2"
    + name("collections", "OrderedDict")
    + b"](](U\1w"
    + tensor()
    + b"ee\x85R}"
    + text("m")
    + b"Nsb.",
)
_TOKENS = (
    *(bytes((code,)) for code in b"().0NKMJG}]aesutbRQcqrhjXTUCB\x80\x85\x86\x87\x88\x89\x8a\x93\x94\x95"),
    *(b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"data/0", b"data.pkl", b"/", b"FB\0\0"),
    *(number(-1), number(1 << 62), counts(2, 3), counts(0), HOOKS, tensor(), storage(), _PART),
    *(
        text("w"),
        name("torch", "BFloat16Storage"),
        name("torch._utils", "_rebuild_tensor_v3"),
        b"h\0",
        b"q\0",
    ),
)


def read(path: Path) -> None:
    """Read a file; what is read lies in it."""
    file = MappedFile(path)
    for found in read_torch_file(file):
        reach = found.nbytes
        if found.strides is not None:
            steps = zip(found.shape, found.strides, strict=True)
            reach = (1 + sum((size - 1) * step for size, step in steps)) * ITEM_BYTES[found.dtype]
        assert found.nbytes == prod(found.shape) * ITEM_BYTES[found.dtype] <= file.size, found
        assert 0 <= found.offset <= found.offset + reach <= file.size, found


def _files() -> list[bytes]:
    layout = torch_layout([("a", "BF16", (2, 3)), ("b", "F8_E4M3", ()), ("c", "F32", (0, 2))])
    written = bytearray(layout.size)
    for offset, content in layout.pieces():
        written[offset : offset + len(content)] = content
    views = pickled(text("w"), tensor(over=_ROOT), text("v"), tensor(counts(2), counts(1), number(1), _VIEW))
    return [
        bytes(written),
        *(zipped(pickle) for pickle in _PICKLES),
        legacy(views, text("0"), _FLOATS),
    ]


TARGETS = (
    Target("torch files", read, _files, _TOKENS),
    Target("torch pickles", read, lambda: list(_PICKLES), _TOKENS, zipped),
)


def run(seconds: float, seed: int | None = None) -> int:
    """Fuzz each for its share of the time; returns how many inputs were tried."""
    return sum(fuzz_target(target, seconds / len(TARGETS), seed=seed) for target in TARGETS)
