"""The BPE models of `tokenizer.json`: their vocabulary, and merges made from scores or ranks."""

from collections.abc import Container
from typing import Any

MAX_TOKEN_LENGTH = 1024
"""Characters or bytes: eight times as long as Llama 3's longest. Every cut of each token is looked up."""


def bpe_model(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    *,
    unk_token: str | None = None,
    fuse_unk: bool = False,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """The `model` of tokenizer.json.

    Args:
        vocab: token -> id.
        merges: pairs of tokens that become one, the first that applies before the others.
        unk_token: stands for a character that the vocabulary lacks.
        fuse_unk: several such characters in a row become one token.
        byte_fallback: such characters become tokens of their bytes, `<0x00>` to `<0xFF>`.
        ignore_merges: a piece of text that is in the vocabulary as a whole is taken as such.
    """
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk_token,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": fuse_unk,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    }


def merges_from_scores(vocab: Container[str], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, the best first: SentencePiece merges by score, BPE by rank.

    Source: `generate_merges` of transformers, ties included, since the order decides the token ids: the many
    tokens of spaces alone share a score, and with the longer left part first a run grows from its beginning.
    """
    merges = [
        (score, (token[:cut], token[cut:]))
        for token, score in scores.items()
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    merges.sort(key=lambda merge: (merge[0], len(merge[1][0]), len(merge[1][1])), reverse=True)
    return [pair for _, pair in merges]


def merges_from_ranks(ranks: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, in the order of the ranks of what they make.

    tiktoken joins whichever neighbours make the token of the lowest rank. Of the pairs that make one token it
    only ever meets one: what happens inside a token's bytes, before they are joined, does not depend on what
    stands around them. The others do no harm.

    Args:
        ranks: token -> rank, in ascending order of ranks.

    Source: `_byte_pair_merge` of openai/tiktoken; the order within a token is that of `TikTokenConverter` of
    transformers.
    """
    merges: list[tuple[str, str]] = []
    for token in ranks:
        pairs = [
            (token[:cut], token[cut:])
            for cut in range(1, len(token))
            if token[:cut] in ranks and token[cut:] in ranks
        ]
        if len(pairs) > 1:
            pairs.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += pairs
    return merges


def byte_characters() -> dict[int, str]:
    """Byte -> the character that stands for it: printable Latin-1 for itself, the rest from U+0100 on.

    Source: `bytes_to_unicode` of GPT-2's encoder.py.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in characters]
    return characters | {byte: chr(256 + index) for index, byte in enumerate(others)}
