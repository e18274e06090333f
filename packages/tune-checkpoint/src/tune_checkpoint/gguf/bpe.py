"""The BPE models of `tokenizer.json`: vocabulary and merges, from GGUF metadata."""

from typing import Any

from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.tokenizers.bpe import bpe_model, byte_characters, merges_from_scores

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
    return bpe_model(vocab, _stored_merges(metadata, lines, vocab), ignore_merges=ignore_merges)


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
    return bpe_model(vocab, merges, unk_token=unk_token, fuse_unk=True, byte_fallback=True)


def byte_alphabet() -> set[str]:
    """The 256 characters that stand for bytes."""
    return set(byte_characters().values())


def _spelled(token: str) -> str:
    characters = byte_characters()
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
