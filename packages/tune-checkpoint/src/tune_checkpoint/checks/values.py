"""Whether all values are finite, and the bytes those of a checksum that the file has, block by block."""

import zlib
from collections.abc import Iterator
from math import prod

import numpy as np
from msgspec import Struct

from tune_checkpoint.arrays import decode, num_rows
from tune_checkpoint.checks.problems import Problem, problem
from tune_checkpoint.errors import CheckpointError
from tune_checkpoint.gguf.types import BLOCKS
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.sources import Sources
from tune_checkpoint.write import Meter

BLOCK_BYTES = 1 << 20
"""Bytes looked at together: measured fastest where they stay in the cache."""
DECODED_ELEMENTS = 1 << 18
"""Elements of a quantised tensor that are expanded together."""


class Limits(Struct, frozen=True):
    """How a floating-point type spells what is not finite."""

    kind: str
    """The unsigned integer of its size."""
    mask: int
    """All bits but the sign."""
    infinity: int
    """Masked bits of infinity; above it is NaN. A type without infinity has the largest finite value here."""
    has_infinity: bool = True


LIMITS = {
    "F64": Limits("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": Limits("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "C64": Limits("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "F16": Limits("<u2", 0x7FFF, 0x7C00),
    "BF16": Limits("<u2", 0x7FFF, 0x7F80),
    "F8_E5M2": Limits("<u1", 0x7F, 0x7C),
    "F8_E4M3": Limits("<u1", 0x7F, 0x7E, has_infinity=False),
}


class Counts(Struct):
    """What was found in a tensor."""

    num_nan: int = 0
    num_infinite: int = 0
    first: int = -1
    """Position of the first of them, counted through the tensor in C order."""
    crc32: int = 0
    """Of all bytes, if the tensor states one."""


def check_values(tensor: TensorSlice, sources: Sources, meter: Meter) -> Problem | None:
    """Read a tensor, count what is not finite, and compare the checksum. Integers are only read."""
    file = tensor.path.rpartition("/")[2]
    try:
        found = count_values(tensor, sources, meter)
    except CheckpointError as error:
        return problem("values", file, f"cannot be read: {error}", tensor.name)
    faults = [_not_finite(tensor, found)] if found.first >= 0 else []
    if tensor.crc32 is not None and found.crc32 != tensor.crc32:
        faults.append(
            f"has changed since it was saved: its CRC-32 is {found.crc32:08x}, and not {tensor.crc32:08x}; "
            "download or copy the file again"
        )
    return problem("values", file, ", and ".join(faults), tensor.name) if faults else None


def _not_finite(tensor: TensorSlice, found: Counts) -> str:
    counts = [f"{n:,} {what}" for n, what in ((found.num_nan, "NaN"), (found.num_infinite, "infinite")) if n]
    index = [int(i) for i in np.unravel_index(found.first, tensor.shape)] if tensor.shape else []
    total = prod(tensor.shape)
    return f"has {' and '.join(counts)} of {total:,} values; the first is at {index}"


def count_values(tensor: TensorSlice, sources: Sources, meter: Meter) -> Counts:
    """Count NaN and infinite values.

    Raises:
        CheckpointError: the file cannot be read.
    """
    limits = LIMITS["F32"] if tensor.dtype in BLOCKS else LIMITS.get(tensor.dtype)
    found, position = Counts(), 0
    for block, num_bytes in _blocks(tensor, sources):
        if tensor.crc32 is not None:
            found.crc32 = zlib.crc32(block.data, found.crc32)
        if limits is not None:
            bits = block.view(limits.kind) & np.array(limits.mask, limits.kind)
            is_bad = bits.max() >= limits.infinity if limits.has_infinity else bits.max() > limits.infinity
            if is_bad:
                _count(found, bits, limits, position)
            position += bits.size
        meter.add(num_bytes)
    if tensor.dtype == "C64":  # two numbers to a value
        found.first //= 2
    return found


def _count(found: Counts, bits: np.ndarray, limits: Limits, position: int) -> None:
    nan = bits > limits.infinity
    infinite = bits == limits.infinity if limits.has_infinity else np.zeros_like(nan)
    if found.first < 0:
        found.first = position + int(np.argmax(nan | infinite))
    found.num_nan += int(nan.sum())
    found.num_infinite += int(infinite.sum())


def _blocks(tensor: TensorSlice, sources: Sources) -> Iterator[tuple[np.ndarray, int]]:
    """The values in C order, of a quantised tensor as float32; and how many bytes of the file they took."""
    if tensor.strides is None and tensor.dtype not in BLOCKS:
        for start in range(0, tensor.nbytes, BLOCK_BYTES):
            block = sources.read(tensor, start, min(BLOCK_BYTES, tensor.nbytes - start))
            yield block, block.nbytes
        return
    total = num_rows(tensor)
    step = max(1, DECODED_ELEMENTS * total // prod(tensor.shape)) if total else 1
    for start in range(0, total, step):
        rows = sources.rows(tensor, start, min(start + step, total))
        num_bytes = rows.nbytes
        if tensor.dtype in BLOCKS:
            with np.errstate(all="ignore"):  # a scale that is not finite is what is looked for
                rows = decode(rows, tensor.dtype)
        yield rows.reshape(-1), num_bytes
