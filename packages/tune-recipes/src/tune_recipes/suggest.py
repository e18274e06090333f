"""The nearest name to one that does not exist."""

from collections.abc import Iterable


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that `name` is most likely a misspelling of, or None.

    For dotted names, one whose last part is `name` counts as near: `lr` is near `optim.lr`.
    """
    import difflib

    names = list(candidates)
    by_last_part = [c for c in names if c.rpartition(".")[2] == name.rpartition(".")[2]]
    if len(by_last_part) == 1:
        return by_last_part[0]
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.6)), None)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest candidate, or nothing."""
    near = nearest(name, candidates)
    return f"; did you mean {near}?" if near else ""
