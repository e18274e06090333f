"""`tokenizer.json` and its companions from the vocabulary in a GGUF file, without any tokenizer library."""

from typing import Any

from msgspec import Struct

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.gguf.bpe import byte_level_model, sentencepiece_model
from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.gguf.pretokenizers import GPT2, PRE_TOKENIZERS
from tune_checkpoint.plan import SideFile
from tune_checkpoint.tokenizers.tokenizer_json import (
    BYTE_LEVEL_DECODER,
    SPACE,
    AddedToken,
    TokenizerParts,
    sentencepiece_decoder,
)
from tune_checkpoint.tokenizers.tokenizer_json import tokenizer_files as files_from_parts

CONTROL, USER_DEFINED = 3, 4

SPECIAL_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "pad": "padding_token_id",
}
SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unk": 0}
"""What llama.cpp takes for a SentencePiece vocabulary that does not name them."""


class Vocabulary(Struct, frozen=True):
    """What a GGUF file says about its tokens."""

    model: str
    """`gpt2`: byte-level BPE with merges; `llama`: SentencePiece BPE with scores."""
    tokens: list[str]
    types: list[int]
    ids: dict[str, int]
    """bos, eos, unk and pad, where the file names them."""

    @property
    def special(self) -> dict[str, str]:
        """The tokens of `ids`."""
        return {name: self.tokens[index] for name, index in self.ids.items()}


def read_vocabulary(metadata: Metadata) -> Vocabulary | None:
    """The vocabulary, or None if the file has none.

    Raises:
        CorruptFileError: parts of it contradict each other.
        UnsupportedCheckpointError: it is of a kind that cannot be converted.
    """
    model = metadata.text("tokenizer.ggml.model")
    tokens = metadata.texts("tokenizer.ggml.tokens")
    if model is None or not tokens:
        return None
    if model not in ("gpt2", "llama"):
        raise UnsupportedCheckpointError(
            f"{metadata.path}: a tokenizer of kind {model!r} (tokenizer.ggml.model); "
            "gpt2 (byte-level BPE) and llama (SentencePiece BPE) can be converted"
        )
    types = metadata.integers("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise CorruptFileError(
            f"{metadata.path}: {len(tokens)} tokens, but {len(types)} in tokenizer.ggml.token_type"
        )
    return Vocabulary(model, tokens, types, _special_ids(metadata, model, tokens))


def tokenizer_files(
    metadata: Metadata, vocabulary: Vocabulary, max_length: int | None
) -> tuple[list[SideFile], list[str]]:
    """`tokenizer.json`, `tokenizer_config.json` `chat_template.jinja`; and warnings."""
    warnings: list[str] = []
    pre_name = metadata.text("tokenizer.ggml.pre") or "default"
    if vocabulary.model == "gpt2" and pre_name not in PRE_TOKENIZERS:
        warnings.append(
            f"tokenizer.json: how {pre_name!r} (tokenizer.ggml.pre) splits text is not known, and GPT-2's "
            "way was written; prefer the original model's tokenizer.json"
        )
    template = metadata.text("tokenizer.chat_template")
    if template is None:
        warnings.append("chat_template.jinja: the file has no chat template; this is usual for a base model")
    parts = _tokenizer_parts(metadata, vocabulary, pre_name)
    return files_from_parts(parts, max_length, template), warnings


def _special_ids(metadata: Metadata, model: str, tokens: list[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for name, key in SPECIAL_KEYS.items():
        index = metadata.integer(f"tokenizer.ggml.{key}")
        if index is None and model == "llama":
            index = SENTENCEPIECE_IDS.get(name)
        if index is None:
            continue
        if not 0 <= index < len(tokens):
            raise CorruptFileError(
                f"{metadata.path}: tokenizer.ggml.{key} is {index}; there are {len(tokens)} tokens"
            )
        ids[name] = index
    return ids


def _added_ends(metadata: Metadata, vocabulary: Vocabulary, pre_name: str) -> tuple[bool, bool]:
    """Whether a text begins with BOS and ends with EOS."""
    by_default = vocabulary.model == "llama" or PRE_TOKENIZERS.get(pre_name, GPT2).add_bos
    add_bos = metadata.flag("tokenizer.ggml.add_bos_token", by_default) and "bos" in vocabulary.ids
    add_eos = metadata.flag("tokenizer.ggml.add_eos_token", False) and "eos" in vocabulary.ids
    return add_bos, add_eos


def _tokenizer_parts(metadata: Metadata, vocabulary: Vocabulary, pre_name: str) -> TokenizerParts:
    if vocabulary.model == "gpt2":
        pre_tokenizer = PRE_TOKENIZERS.get(pre_name, GPT2)
        normalizer = pre_tokenizer.normalizer
        split = pre_tokenizer.to_json()
        decoder = BYTE_LEVEL_DECODER
        model = byte_level_model(metadata, vocabulary.tokens, vocabulary.types, pre_tokenizer.ignore_merges)
    else:
        normalizer = None
        prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
        split: dict[str, Any] = {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": "first" if prefix else "never",
            "split": False,
        }
        decoder = sentencepiece_decoder(int(prefix))
        model = sentencepiece_model(metadata, vocabulary.tokens, vocabulary.special.get("unk"))
    add_bos, add_eos = _added_ends(metadata, vocabulary, pre_name)
    return TokenizerParts(
        model=model,
        normalizer=normalizer,
        pre_tokenizer=split,
        decoder=decoder,
        added_tokens=_added_tokens(vocabulary),
        special=vocabulary.special,
        ids=vocabulary.ids,
        add_bos=add_bos,
        add_eos=add_eos,
    )


def _added_tokens(vocabulary: Vocabulary) -> list[AddedToken]:
    """Control and user-defined tokens, and those that have a name."""
    named = set(vocabulary.ids.values())
    return [
        AddedToken(index, token, special=kind == CONTROL or index in named)
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if token and (kind in (CONTROL, USER_DEFINED) or index in named)
    ]
