"""The nearest name to one that does not exist."""

from collections.abc import Iterable


def nearest(name: str, candidates: Iterable[str]) -> list[str]:
    """Return the candidates that `name` most likely means, the likeliest alone where one stands out.

    For dotted names, one whose last part is `name` counts as near: `lr` is near `optim.lr`, `name` as near to
    `optim.name` as to `schedule.name`. A beginning or a piece that only one candidate has is near too.
    """
    import difflib

    by_plain = {_plain(candidate): candidate for candidate in candidates}
    plain = _plain(name)
    if plain in by_plain:
        return [by_plain[plain]]
    last = plain.rpartition(".")[2]
    if same_last_part := [by_plain[c] for c in by_plain if last and c.rpartition(".")[2] == last]:
        return same_last_part[:3]
    if close := difflib.get_close_matches(plain, by_plain, n=1, cutoff=0.6):
        return [by_plain[close[0]]]
    if len(plain) >= 3:
        for pieces in ([c for c in by_plain if c.startswith(plain)], [c for c in by_plain if plain in c]):
            if len(pieces) == 1:
                return [by_plain[pieces[0]]]
    return []


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest candidate, `X or Y` for several, or nothing."""
    near = nearest(name, candidates)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
