"""Rotary scaling: from what a GGUF file holds to the parameters that `config.json` states.

For Llama 3.1 and later llama.cpp stores no parameters but their result: `rope_freqs.weight`, the factor by
which each frequency is divided. Parameters are found from it, and kept only if they give the same factors.
"""

from collections.abc import Sequence
from math import isclose, pi
from typing import Any

from tune_checkpoint.errors import UnsupportedCheckpointError

TOLERANCE = 1e-5
"""Relative; the factors are stored as 32-bit floats."""


def llama3_factors(scaling: dict[str, Any], head_dim: int, theta: float) -> list[float]:
    """What llama3 scaling divides each of the `head_dim / 2` frequencies by.

    Source: `generate_extra_tensors` of llama.cpp's convert_hf_to_gguf.py; the same smoothing as transformers'
    `_compute_llama3_parameters`.
    """
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for index in range(head_dim // 2):
        # How many of this frequency's waves fit into the original context.
        waves = scaling["original_max_position_embeddings"] * _frequency(index, head_dim, theta) / (2 * pi)
        if waves > high:
            factors.append(1.0)
        elif waves < low:
            factors.append(factor)
        else:
            smooth = (waves - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def llama3_scaling(
    factors: Sequence[float], head_dim: int, theta: float, where: str
) -> dict[str, Any] | None:
    """The llama3 parameters that give these factors; None if every factor is one.

    Args:
        factors: `head_dim / 2` of them, from `rope_freqs.weight`.
        head_dim: elements of an attention head.
        theta: the base of the frequencies.
        where: names file and tensor in the error.

    Raises:
        UnsupportedCheckpointError: no parameters give these factors.
    """
    if all(isclose(factor, 1.0, rel_tol=TOLERANCE) for factor in factors):
        return None
    for candidate in (_published(max(factors)), _solved(factors, head_dim, theta)):
        if candidate is not None and _matches(candidate, factors, head_dim, theta):
            return candidate
    raise UnsupportedCheckpointError(
        f"{where}: its frequency factors are not those of llama3 rotary scaling, "
        "the only kind of factors that can be converted"
    )


def _frequency(index: int, head_dim: int, theta: float) -> float:
    return theta ** (-2 * index / head_dim)


def _scaling(factor: float, high: float, context: int) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def _published(factor: float) -> dict[str, Any]:
    """What every Llama 3.1, 3.2 and 3.3 has, but for the factor."""
    return _scaling(round(factor, 4), 4.0, 8192)


def _solved(factors: Sequence[float], head_dim: int, theta: float) -> dict[str, Any] | None:
    """Parameters from two smoothed factors: between its ends the smoothing is linear in the frequency.

    Multiplying context, low and high by one number changes no factor, so low can be taken as one.
    """
    factor = max(factors)
    smoothed = [i for i, f in enumerate(factors) if 1 + TOLERANCE < f < factor * (1 - TOLERANCE)]
    if len(smoothed) < 2:
        return None
    points = [
        (_frequency(i, head_dim, theta) / (2 * pi), (1 / factors[i] - 1 / factor) / (1 - 1 / factor))
        for i in (smoothed[0], smoothed[-1])
    ]
    (x0, y0), (x1, y1) = points
    slope = (y0 - y1) / (x0 - x1)
    intercept = y0 - slope * x0
    if slope <= 0 or intercept >= 0:
        return None
    width = -1 / intercept  # high - low, with low = 1
    return _scaling(round(factor, 4), round(1 + width, 3), round(slope * width))


def _matches(scaling: dict[str, Any], factors: Sequence[float], head_dim: int, theta: float) -> bool:
    again = llama3_factors(scaling, head_dim, theta)
    return len(again) == len(factors) and all(
        isclose(a, b, rel_tol=TOLERANCE) for a, b in zip(again, factors, strict=True)
    )
