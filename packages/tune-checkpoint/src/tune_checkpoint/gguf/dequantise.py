"""Quantised blocks to 32-bit floats, by the `gguf` package."""

from typing import TYPE_CHECKING

from tune_checkpoint.gguf.types import BLOCKS

if TYPE_CHECKING:
    import numpy as np


def dequantise_rows(rows: "np.ndarray", dtype: str) -> "np.ndarray":
    """Expand whole rows of quantised blocks.

    Args:
        rows: (R, bytes of a row) uint8, contiguous.
        dtype: the block type, `Q4_1`.

    Returns:
        (R, elements of a row) float32.
    """
    from gguf import GGMLQuantizationType, dequantize

    _, block_bytes = BLOCKS[dtype]
    num_rows = rows.shape[0]
    # Blocks know nothing of rows: as one long row, they are not gone through 16 short rows at a time.
    values = dequantize(rows.reshape(1, -1, block_bytes).reshape(1, -1), GGMLQuantizationType[dtype])
    return values.reshape(num_rows, -1)
