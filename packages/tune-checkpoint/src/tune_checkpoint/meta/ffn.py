"""The width of the feed-forward network, which Meta's `params.json` does not state but has computed.

Source: `FeedForward` in models/llama3/model.py of meta-llama/llama-models.
"""

from collections.abc import Iterator
from math import nextafter

MULTIPLES = (4096, 1024, 256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Tried in this order; the first two and 256 are those of published models."""


def feed_forward_size(hidden_size: int, multiple_of: int, multiplier: float | None) -> int:
    """What Meta's program makes of the numbers in `params.json`."""
    width = int(2 * (4 * hidden_size) / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * ((width + multiple_of - 1) // multiple_of)


def find_multiple(hidden_size: int, intermediate_size: int) -> tuple[int, float | None] | None:
    """`multiple_of` and `ffn_dim_multiplier` that give a width; None if none do.

    The plainest pair is taken: without a multiplier if that can be, else with as few digits as do.
    """
    for multiple_of in (256, *MULTIPLES):
        if feed_forward_size(hidden_size, multiple_of, None) == intermediate_size:
            return multiple_of, None
    for multiple_of in MULTIPLES:
        if intermediate_size % multiple_of == 0:
            for multiplier in _multipliers(hidden_size, intermediate_size):
                if feed_forward_size(hidden_size, multiple_of, multiplier) == intermediate_size:
                    return multiple_of, multiplier
    return None


def _multipliers(hidden_size: int, intermediate_size: int) -> Iterator[float]:
    """Numbers that may stretch the width to the wanted one, the shortest first."""
    exact = intermediate_size / max(1, int(2 * (4 * hidden_size) / 3))
    for digits in range(1, 17):
        yield float(f"{exact:.{digits}g}")
    yield nextafter(exact, 1e9)
