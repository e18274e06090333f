"""Sizes as people read them."""


def megabytes(num_bytes: float) -> str:
    """Return a size as text."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e10 else f"{num_bytes / 1e6:,.1f} MB"
