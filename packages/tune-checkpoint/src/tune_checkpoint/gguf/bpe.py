"""The BPE models of `tokenizer.json`: vocabulary and merges, from GGUF metadata."""

from typing import Any

from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.gguf.metadata import Metadata

NORMAL = 1


def byte_level_model(
    metadata: Metadata, tokens: list[str], types: list[int], ignore_merges: bool
) -> dict[str, Any]:
    """BPE over bytes spelled as printable characters, as GPT-2 has it.

    Raises:
        CorruptFileError: there are no merges, or one names a token that is not in the vocabulary.
    """
    alphabet = byte_alphabet()
    vocab: dict[str, int] = {}
    for index, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        # Some files spell a few ordinary tokens as text; the merges know them only in the bytes' alphabet.
        is_plain = kind == NORMAL and not alphabet.issuperset(token)
        vocab[_spelled(token) if is_plain else token] = index
    lines = metadata.texts("tokenizer.ggml.merges")
    if not lines:
        raise CorruptFileError(
            f"{metadata.path}: tokenizer.ggml.merges is missing; a gpt2 vocabulary needs it"
        )
    return _bpe(vocab, _stored_merges(metadata, lines, vocab), ignore_merges=ignore_merges)


def sentencepiece_model(metadata: Metadata, tokens: list[str], unk_token: str | None) -> dict[str, Any]:
    """BPE over characters, with bytes for those that the vocabulary lacks, as SentencePiece has it.

    Raises:
        CorruptFileError: there are neither merges nor scores to make them from.
    """
    vocab = {token: index for index, token in enumerate(tokens)}
    lines = metadata.texts("tokenizer.ggml.merges")
    if lines:
        merges = _stored_merges(metadata, lines, vocab)
    else:
        scores = metadata.numbers("tokenizer.ggml.scores")
        if scores is None or len(scores) != len(tokens):
            raise CorruptFileError(
                f"{metadata.path}: tokenizer.ggml.scores does not give every token's score"
            )
        merges = merges_from_scores(vocab, dict(zip(tokens, scores, strict=True)))
    return _bpe(vocab, merges, unk_token=unk_token, fuse_unk=True, byte_fallback=True)


def merges_from_scores(vocab: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, the best first: SentencePiece merges by score, BPE by rank.

    Source: `generate_merges` of transformers, ties included, since the order decides the token ids.
    """
    merges = [
        (score, (token[:cut], token[cut:]))
        for token, score in scores.items()
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    merges.sort(key=lambda merge: (merge[0], len(merge[1][0]), len(merge[1][1])), reverse=True)
    return [pair for _, pair in merges]


def byte_alphabet() -> set[str]:
    """The 256 characters that stand for bytes."""
    return set(_byte_characters().values())


def _byte_characters() -> dict[int, str]:
    """Byte -> character: printable Latin-1 stands for itself, the rest for characters from 256 on.

    Source: `bytes_to_unicode` of GPT-2's encoder.py.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in characters]
    return characters | {byte: chr(256 + index) for index, byte in enumerate(others)}


def _spelled(token: str) -> str:
    characters = _byte_characters()
    return "".join(characters[byte] for byte in token.encode())


def _stored_merges(metadata: Metadata, lines: list[str], vocab: dict[str, int]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines):
        left, space, right = line.partition(" ")
        # A tokenizer library would refuse the whole file for one such merge.
        if not (space and left in vocab and right in vocab and left + right in vocab):
            raise CorruptFileError(
                f"{metadata.path}: merge {number} of tokenizer.ggml.merges, {line!r}, does not join "
                "two tokens of the vocabulary into a third"
            )
        merges.append((left, right))
    return merges


def _bpe(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    *,
    unk_token: str | None = None,
    fuse_unk: bool = False,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
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
