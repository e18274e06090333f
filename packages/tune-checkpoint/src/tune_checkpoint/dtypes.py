"""The element types of safetensors, under the names that its header spells, and their sizes.

Types that a GGUF file stores in blocks (`Q4_1`, ...) stand in `tune_checkpoint.gguf.types`.
"""

from math import prod
from typing import TYPE_CHECKING

from tune_checkpoint.gguf.types import BLOCKS

if TYPE_CHECKING:
    import numpy as np

ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}
"""Bytes of one element."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of weights that another can be chosen for. Bytes of 8-bit floats have scales beside them."""

TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""How `config.json` spells the floating-point types."""

CLI_DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""How a user spells the type of a conversion's output."""

_NUMPY_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
_ML_DTYPES_NAMES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    if dtype in BLOCKS:
        elements, block_bytes = BLOCKS[dtype]
        return prod(shape) // elements * block_bytes
    return prod(shape) * ITEM_BYTES[dtype]


def numpy_dtype(dtype: str) -> "np.dtype":
    """The numpy type of a safetensors type; little-endian, as the file is."""
    import numpy as np

    if dtype in _ML_DTYPES_NAMES:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, _ML_DTYPES_NAMES[dtype]))
    return np.dtype(_NUMPY_NAMES[dtype]).newbyteorder("<")
