"""Scores of tokens, by which SentencePiece and llama.cpp merge, from merges in their order."""

from collections.abc import Sequence

from msgspec import Struct

from tune_checkpoint.tokenizers.bpe import merges_from_scores

Merges = Sequence[tuple[str, str]]


class Scores(Struct, frozen=True):
    """Scores of tokens, and how well they stand for the merges that they were made from."""

    by_token: dict[str, float]
    are_exact: bool
    """The merges follow from them in the same order, as they do for whatever SentencePiece has trained."""
    are_complete: bool
    """The merges follow from them; tokens of equal scores may come in another order."""


def scores_from_merges(vocab: dict[str, int], merges: Merges) -> Scores:
    """Give tokens scores whose order is that of the merges that make them.

    A score belongs to a token, whichever merge makes it. Where the merges of two tokens are mixed, the two
    had the same score, and get it again.

    Args:
        vocab: token -> id.
        merges: pairs that become one token, the first that applies before the others.
    """
    scores = _with_rest(vocab, _tied(merges))
    again = merges_from_scores(vocab, scores)
    if again == list(merges):
        return Scores(scores, are_exact=True, are_complete=True)
    made = dict.fromkeys(left + right for left, right in merges)
    ranks = {token: -float(rank) for rank, token in enumerate(made)}
    return Scores(_with_rest(vocab, ranks), are_exact=False, are_complete=set(again) == set(merges))


def _tied(merges: Merges) -> dict[str, float]:
    spans: dict[str, list[int]] = {}
    for rank, (left, right) in enumerate(merges):
        spans.setdefault(left + right, [rank, rank])[1] = rank
    scores: dict[str, float] = {}
    score, end = 0.0, -1
    for token, (first, last) in spans.items():
        if first > end:
            score -= 1
        end = max(end, last)
        scores[token] = score
    return scores


def _with_rest(vocab: dict[str, int], made: dict[str, float]) -> dict[str, float]:
    """Scores for all: what no merge makes is worth least."""
    least = min(made.values(), default=0.0) - 1
    return {token: made.get(token, least) for token in vocab}
