"""32-bit floats to quantised blocks, by the `gguf` package."""

import numpy as np

from tune_checkpoint.errors import UnsupportedCheckpointError

LARGEST = 65504.0
"""The largest 16-bit float: what a block's scale is kept in."""


def quantise_rows(values: np.ndarray, dtype: str, where: str) -> np.ndarray:
    """Round whole rows to quantised blocks.

    Args:
        values: (R, elements of a row) of floats.
        dtype: the block type, `Q4_1`.
        where: names file and tensor in the error.

    Returns:
        (R, bytes of a row) uint8.

    Raises:
        UnsupportedCheckpointError: a value is none that a block can stand for.
    """
    from gguf import GGMLQuantizationType, quantize

    values = values.astype(np.float32, copy=False)
    # Blocks of tiny values overflow on the way, and come out as zeros all the same.
    with np.errstate(all="ignore"):
        if not (values.min() >= -LARGEST and values.max() <= LARGEST):
            raise UnsupportedCheckpointError(
                f"{where} holds NaN or values beyond {LARGEST:.0f}, for which {dtype} has no place; "
                "take f32 or bf16 for quant, or mend the checkpoint"
            )
        # Blocks know nothing of rows: as one long row, they are not gone through 16 short rows at a time.
        blocks = quantize(values.reshape(1, -1), GGMLQuantizationType[dtype])
    return blocks.reshape(len(values), -1)
