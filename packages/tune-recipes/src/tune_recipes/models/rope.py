"""Rotary position embedding.

Cosines and sines are computed anew in every forward pass, once for all layers. A buffer would have to survive
the meta device and `to_empty`, casts to bfloat16 and sharding; a function cannot go stale.

Shapes: B batch, S sequence, N heads, H width of a head, F = H / 2 frequencies.
"""

import math

import torch
from torch import Tensor

from tune_recipes.models.config import ModelConfig, RopeParameters


def rope_tables(config: ModelConfig, positions_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the cosines and sines that turn queries and keys.

    Args:
        config: The model's shape.
        positions_BS: (B or 1, S) int64, the position of each token in its own text.

    Returns:
        Cosines and sines, each (B or 1, 1, S, H) float32: one angle for the two halves of a head.

    Source:
        Su et al., RoFormer, section 3.2.2; the halves are laid out as in transformers, not interleaved.
    """
    frequencies_F = rope_frequencies(config.rope_parameters, config.head_dim, positions_BS.device)
    angles_BSF = positions_BS[..., None].float() * frequencies_F
    angles_B1SH = torch.cat((angles_BSF, angles_BSF), dim=-1)[:, None]
    return angles_B1SH.cos(), angles_B1SH.sin()


def rope_frequencies(rope: RopeParameters, head_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Compute the angle by which each pair of dimensions turns per token, in radians: (F,) float32."""
    exponents_F = torch.arange(0, head_dim, 2, device=device).float() / head_dim
    frequencies_F = 1.0 / rope.rope_theta**exponents_F
    if rope.rope_type == "linear":
        assert rope.factor is not None
        return frequencies_F / rope.factor
    if rope.rope_type == "llama3":
        return _llama3_scaled(frequencies_F, rope)
    return frequencies_F


def _llama3_scaled(frequencies_F: Tensor, rope: RopeParameters) -> Tensor:
    """Stretch long wavelengths, keep short ones, and go over smoothly in between.

    Source: the reference code of Llama 3.1 (`apply_scaling`).
    """
    factor, context = rope.factor, rope.original_max_position_embeddings
    low, high = rope.low_freq_factor, rope.high_freq_factor
    assert factor is not None and context is not None and low is not None and high is not None
    turns_F = context * frequencies_F / (2 * math.pi)  # full turns within the original context
    # 0 at `low` turns and below: stretched in full; 1 at `high` turns and above: kept.
    keep_F = ((turns_F - low) / (high - low)).clamp(0, 1)
    return (1 - keep_F) * frequencies_F / factor + keep_F * frequencies_F


def rotate(x_BNSH: Tensor, cos_B1SH: Tensor, sin_B1SH: Tensor) -> Tensor:
    """Turn each pair (dimension i, dimension i + H / 2) by its angle, in float32 whatever the type of `x`."""
    first, second = x_BNSH.chunk(2, dim=-1)
    turned_BNSH = x_BNSH * cos_B1SH + torch.cat((-second, first), dim=-1) * sin_B1SH
    return turned_BNSH.to(x_BNSH.dtype)
