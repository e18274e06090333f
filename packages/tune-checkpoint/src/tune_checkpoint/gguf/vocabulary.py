"""The vocabulary of a GGUF file, from the tokenizer of a Hugging Face folder.

Source: `get_vocab_base` and `_set_vocab_sentencepiece` of llama.cpp's convert_hf_to_gguf.py, `SpecialVocab`
of the `gguf` package; llama-vocab.cpp for what llama.cpp makes of it.
"""

import re

from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.gguf.encode import flag, float32s, int32s, text, texts, uint32
from tune_checkpoint.gguf.hf_tokenizer import READ, Bpe, HfTokenizer, Step, read_hf_tokenizer
from tune_checkpoint.gguf.pretokenizers import PRE_TOKENIZERS
from tune_checkpoint.gguf.scores import scores_from_merges
from tune_checkpoint.gguf.tokenizer import CONTROL, SPECIAL_KEYS, USER_DEFINED
from tune_checkpoint.plan import Plan

NORMAL, UNKNOWN, UNUSED, BYTE = 1, 2, 5, 6

BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")

SPLIT_NAMES = {PRE_TOKENIZERS[name].split: name for name in ("llama-bpe", "tekken", "qwen2")}
"""How text is split before merging -> what llama.cpp calls it."""

NO_VOCABULARY = {"tokenizer.ggml.model": text("none")}
"""With it llama.cpp loads a file that has no tokens."""

Tables = tuple[list[str], list[int]]
"""The token and the type of each id."""


def tokenizer_pairs(plan: Plan, vocab_size: int) -> tuple[dict[str, bytes], list[str]]:
    """The metadata of the tokenizer, and warnings.

    Args:
        plan: has the tokenizer among its files.
        vocab_size: rows of the embedding; llama.cpp wants as many tokens.

    Raises:
        CorruptFileError: a file is not what its name says, or has more tokens than the embedding has rows.
    """
    files = {file.name: file.content for file in plan.files if file.name in READ}
    if "tokenizer.json" not in files:
        return NO_VOCABULARY, [
            f"tokenizer.json: none in {plan.source}; the GGUF file got no vocabulary, and takes token ids, "
            "not text: put the original model's tokenizer files there and convert again"
        ]
    tokenizer = read_hf_tokenizer(files, plan.source)
    is_byte_level = any(step.get("type") == "ByteLevel" for step in tokenizer.pre_tokenizer)
    bpe = tokenizer.bpe
    if bpe is None or not (is_byte_level or _writes_spaces(tokenizer)):
        how = (
            f"its model is of type {tokenizer.kind}" if bpe is None else "it merges neither bytes nor pieces"
        )
        return NO_VOCABULARY, [
            f"tokenizer.json: {how}; only BPE over bytes (GPT-2) or with U+2581 for spaces (SentencePiece) "
            "has a place in GGUF, and the file got no vocabulary"
        ]
    (tokens, types), warnings = _tables(tokenizer, bpe, vocab_size)
    if is_byte_level:
        pairs, further = _byte_level_pairs(tokenizer, bpe)
    else:
        pairs, further = _sentencepiece_pairs(tokenizer, bpe, (tokens, types))
    pairs |= {"tokenizer.ggml.tokens": texts(tokens), "tokenizer.ggml.token_type": int32s(types)}
    pairs |= _special_pairs(tokenizer, (tokens, types))
    return pairs, [*warnings, *further]


def _tables(tokenizer: HfTokenizer, bpe: Bpe, vocab_size: int) -> tuple[Tables, list[str]]:
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [UNUSED] * vocab_size
    added = {token.content for token in tokenizer.added_tokens}
    for token, index in bpe.vocab.items():
        if 0 <= index < vocab_size:
            tokens[index] = token
            types[index] = BYTE if bpe.byte_fallback and BYTE_PIECE.fullmatch(token) else NORMAL
        elif token not in added:
            raise CorruptFileError(
                f"{tokenizer.where}: tokenizer.json: token {token!r} has the id {index}, but the embedding "
                f"has {vocab_size} rows; weights and tokenizer are not of one model"
            )
    left_out: list[str] = []
    for token in tokenizer.added_tokens:
        if 0 <= token.id < vocab_size:
            tokens[token.id] = token.content
            types[token.id] = CONTROL if token.special else USER_DEFINED
        else:
            left_out.append(token.content)
    if not left_out:
        return (tokens, types), []
    return (tokens, types), [
        f"tokenizer.json: {len(left_out)} added tokens ({', '.join(left_out[:3])}) have ids beyond the "
        f"{vocab_size} rows of the embedding, and were left out"
    ]


def _byte_level_pairs(tokenizer: HfTokenizer, bpe: Bpe) -> tuple[dict[str, bytes], list[str]]:
    name = _split_name(tokenizer.pre_tokenizer)
    pairs = {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text(name or "default"),
        "tokenizer.ggml.merges": texts([f"{left} {right}" for left, right in bpe.pairs()]),
    }
    if name is not None:
        return pairs, []
    return pairs, [
        "tokenizer.json: it splits text in a way that has no name here, and llama.cpp's default was written "
        "(tokenizer.ggml.pre); token ids may differ"
    ]


def _sentencepiece_pairs(
    tokenizer: HfTokenizer, bpe: Bpe, tables: Tables
) -> tuple[dict[str, bytes], list[str]]:
    tokens, types = tables
    merges = bpe.pairs()
    scores = scores_from_merges({token: index for index, token in enumerate(tokens)}, merges)
    if bpe.unk_token in bpe.vocab and bpe.vocab[bpe.unk_token] < len(types):
        types[bpe.vocab[bpe.unk_token]] = UNKNOWN
    pairs = {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.scores": float32s([scores.by_token[token] for token in tokens]),
        "tokenizer.ggml.add_space_prefix": flag(_has_prefix(tokenizer)),
    }
    if not scores.are_exact:  # llama.cpp looks at the scores alone; other readers prefer the merges
        pairs["tokenizer.ggml.merges"] = texts([f"{left} {right}" for left, right in merges])
    if scores.are_complete:
        return pairs, []
    return pairs, [
        "tokenizer.json: its merges do not follow from scores of tokens, by which llama.cpp merges; a few "
        "texts may get other token ids there"
    ]


def _special_pairs(tokenizer: HfTokenizer, tables: Tables) -> dict[str, bytes]:
    tokens, types = tables
    index_of = {
        token: index for index, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED
    }
    ids = {name: index_of[token] for name, token in tokenizer.special.items() if token in index_of}
    for name in ("bos", "eos", "pad"):
        stated = [index for source in tokenizer.ids for index in source.of(name) if 0 <= index < len(tokens)]
        if name not in ids and stated:
            ids[name] = stated[0]
    pairs = {f"tokenizer.ggml.{SPECIAL_KEYS[name]}": uint32(index) for name, index in ids.items()}
    ends = [index for source in tokenizer.ids for index in source.of("eos") if 0 <= index < len(tokens)]
    for index in dict.fromkeys(ends):
        if index != ids.get("eos"):
            key = "eom_token_id" if "eom" in tokens[index] else "eot_token_id"
            pairs.setdefault(f"tokenizer.ggml.{key}", uint32(index))
    add_bos, add_eos = tokenizer.ends()
    pairs |= {"tokenizer.ggml.add_bos_token": flag(add_bos), "tokenizer.ggml.add_eos_token": flag(add_eos)}
    if tokenizer.chat_template is not None:
        pairs["tokenizer.chat_template"] = text(tokenizer.chat_template)
    return pairs


def _split_name(steps: list[Step]) -> str | None:
    """What llama.cpp calls a way to split; None if it is none of those known here."""
    kinds = [step.get("type") for step in steps]
    if any(step.get("type") == "ByteLevel" and step.get("add_prefix_space") for step in steps):
        return None
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and isinstance(steps[0].get("pattern"), dict):
        return SPLIT_NAMES.get(steps[0]["pattern"].get("Regex"))
    return None


def _writes_spaces(tokenizer: HfTokenizer) -> bool:
    """Whether spaces become U+2581, as SentencePiece has them."""
    steps = [*tokenizer.normalizer, *tokenizer.pre_tokenizer]
    return any(step.get("type") in ("Metaspace", "Prepend", "Replace") for step in steps)


def _has_prefix(tokenizer: HfTokenizer) -> bool:
    """Whether a space is put before a text."""
    for step in (*tokenizer.normalizer, *tokenizer.pre_tokenizer):
        if step.get("type") == "Prepend":
            return True
        if step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            return bool(step.get("add_prefix_space", True))
    return False
