"""Small tokenizers trained on the spot, and texts on which they are held against others."""

import io
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tune_checkpoint.tokenizers.splits import LLAMA3_SPLIT, TEKKEN_SPLIT

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog", "don't say it's 12345 or 12", "Grüße aus 東京",
    "a  b\n\n c", "def f(x):\n    return x + 1", "über naïve café", "Привет, мир",
] * 9  # fmt: skip
TEXTS = [
    "the quick brown fox", "the  quick\n\nfox ", "don't 12345 6", "DON'T", "Grüße, 世界 🎉", "\tx = 42;\r\n",
    "<|user|>hi<|end|>", "a<tool>b", "naïve café\u0301", "x" * 40, "\n\n\n", "a    b", "e\u0301 ﬁ ½ ²³",
    "مرحبا بالعالم", "नमस्ते", "안녕하세요", "👩\u200d👧🏳\ufe0f\u200d🌈", "\x01\x7f", "1,000,000 3.14",
    "def g(y):\n\treturn y  # done\n\n\n", "[PAD300]", "¡é¿", "<|end|><|end|>",
    "x    5", "\n  42", "a\t7",
]  # fmt: skip
LEADING_SPACES = [" lead", "  two", "    x", "\u2581x", " "]


def byte_level(split: str | None, size: int) -> Tokenizer:
    """A tokenizer over bytes: two special tokens come first, a plain added one is the last.

    Args:
        split: a regular expression whose matches are merged apart; None for GPT-2's; `digits` for SmolLM's,
            which is GPT-2's after every digit was taken off.
        size: number of tokens.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=split in (LLAMA3_SPLIT, TEKKEN_SPLIT)))
    steps: list[Any] = []
    if split == "digits":
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    elif split:
        steps.append(pre_tokenizers.Split(Regex(split), "isolated"))
    is_gpt2 = split in (None, "digits")
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=is_gpt2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        special_tokens=["<|end|>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def write_sentencepiece(path: Path, size: int) -> Path:
    """Train a SentencePiece model with Llama 2's settings."""
    sentencepiece = pytest.importorskip("sentencepiece")
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=content,
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    path.write_bytes(content.getvalue())
    return path
