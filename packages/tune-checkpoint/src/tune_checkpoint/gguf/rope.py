"""Rotary scaling: from what a GGUF file holds to the parameters that `config.json` states.

For Llama 3.1 and later llama.cpp stores no parameters but their result: `rope_freqs.weight`, the factor by
which each frequency is divided. Parameters are found from it, and kept only if they give the same factors.
"""

from collections.abc import Iterator, Sequence
from math import inf, isclose, pi
from typing import Any

from tune_checkpoint.errors import UnsupportedCheckpointError

Point = tuple[float, float]

TOLERANCE = 1e-5
"""Relative; the factors are stored as 32-bit floats."""


def llama3_factors(scaling: dict[str, Any], head_dim: int, theta: float) -> list[float]:
    """What llama3 scaling divides each of the `head_dim / 2` frequencies by.

    Source: `generate_extra_tensors` of llama.cpp's convert_hf_to_gguf.py; the same smoothing as transformers'
    `_compute_llama3_parameters`.
    """
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors: list[float] = []
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
    for candidate in _candidates(factors, head_dim, theta):
        if _matches(candidate, factors, head_dim, theta):
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
        "factor": round(factor, 4),
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def _candidates(factors: Sequence[float], head_dim: int, theta: float) -> Iterator[dict[str, Any]]:
    """Parameters that may give these factors."""
    factor = max(factors)
    # NaN fails this too. Scaling stretches waves, it never shortens them.
    if not all(1 - TOLERANCE < other <= factor < inf for other in factors):
        return
    # What every Llama 3.1, 3.2 and 3.3 has, but for the factor.
    yield _scaling(factor, 4.0, 8192)
    ends = _smoothed_ends(factors, factor, head_dim, theta)
    if ends is not None:
        yield from _solved(factor, *ends)


def _smoothed_ends(
    factors: Sequence[float], factor: float, head_dim: int, theta: float
) -> tuple[Point, Point] | None:
    """The first and last smoothed factor, as (waves in a context of one token, how smooth it is)."""
    smoothed = [i for i, f in enumerate(factors) if 1 + TOLERANCE < f < factor * (1 - TOLERANCE)]
    points = [
        (_frequency(i, head_dim, theta) / (2 * pi), (1 / factors[i] - 1 / factor) / (1 - 1 / factor))
        for i in smoothed
    ]
    return (points[0], points[-1]) if points and points[0][0] != points[-1][0] else None


def _solved(factor: float, first: Point, last: Point) -> Iterator[dict[str, Any]]:
    """Parameters from two smoothed factors: between its ends the smoothing is linear in the frequency.

    Multiplying context, low and high by one number changes no factor, so low can be taken as one.
    """
    slope = (first[1] - last[1]) / (first[0] - last[0])
    intercept = first[1] - slope * first[0]
    if slope <= 0 or intercept >= 0:
        return
    width = -1 / intercept  # high - low, with low = 1
    if 0.001 <= width < inf and slope * width < inf:
        yield _scaling(factor, round(1 + width, 3), round(slope * width))


def _matches(scaling: dict[str, Any], factors: Sequence[float], head_dim: int, theta: float) -> bool:
    again = llama3_factors(scaling, head_dim, theta)
    return len(again) == len(factors) and all(
        isclose(a, b, rel_tol=TOLERANCE) for a, b in zip(again, factors, strict=True)
    )
