"""`tokenizer.json` and its companions from the vocabulary in a GGUF file, without any tokenizer library."""

import json
from typing import Any

from msgspec import Struct

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.gguf.bpe import byte_level_model, sentencepiece_model
from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.gguf.pretokenizers import GPT2, PRE_TOKENIZERS
from tune_checkpoint.plan import SideFile

CONTROL, USER_DEFINED = 3, 4
SPACE = "\u2581"
"""What SentencePiece writes for a space."""

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
    add_bos, add_eos = _added_ends(metadata, vocabulary, pre_name)
    content = _tokenizer_json(metadata, vocabulary, pre_name, add_bos, add_eos)
    config = _tokenizer_config(vocabulary, max_length, template, add_bos, add_eos)
    files = [
        SideFile("tokenizer.json", json.dumps(content, ensure_ascii=False).encode()),
        SideFile("tokenizer_config.json", _readable(config)),
    ]
    if template is not None:
        files.append(SideFile("chat_template.jinja", template.encode()))
    return files, warnings


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


def _tokenizer_json(
    metadata: Metadata, vocabulary: Vocabulary, pre_name: str, add_bos: bool, add_eos: bool
) -> dict[str, Any]:
    if vocabulary.model == "gpt2":
        pre_tokenizer = PRE_TOKENIZERS.get(pre_name, GPT2)
        split = pre_tokenizer.to_json()
        decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        model = byte_level_model(metadata, vocabulary.tokens, vocabulary.types, pre_tokenizer.ignore_merges)
    else:
        prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
        split = {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": "first" if prefix else "never",
            "split": False,
        }
        decoder = _sentencepiece_decoder(prefix)
        model = sentencepiece_model(metadata, vocabulary.tokens, vocabulary.special.get("unk"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary),
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": _post_processor(vocabulary, add_bos, add_eos),
        "decoder": decoder,
        "model": model,
    }


def _sentencepiece_decoder(prefix: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _added_tokens(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Tokens that are found in the text as a whole, before it is split."""
    named = set(vocabulary.ids.values())
    return [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL or index in named,
        }
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if token and (kind in (CONTROL, USER_DEFINED) or index in named)
    ]


def _post_processor(vocabulary: Vocabulary, add_bos: bool, add_eos: bool) -> dict[str, Any]:
    special = vocabulary.special

    def ends(type_id: int, sequence: str) -> list[dict[str, Any]]:
        bos = [{"SpecialToken": {"id": special["bos"], "type_id": type_id}}] if add_bos else []
        eos = [{"SpecialToken": {"id": special["eos"], "type_id": type_id}}] if add_eos else []
        return [*bos, {"Sequence": {"id": sequence, "type_id": type_id}}, *eos]

    used = [name for name, added in (("bos", add_bos), ("eos", add_eos)) if added]
    return {
        "type": "TemplateProcessing",
        "single": ends(0, "A"),
        "pair": ends(0, "A") + ends(1, "B"),
        "special_tokens": {
            special[name]: {"id": special[name], "ids": [vocabulary.ids[name]], "tokens": [special[name]]}
            for name in used
        },
    }


def _tokenizer_config(
    vocabulary: Vocabulary, max_length: int | None, template: str | None, add_bos: bool, add_eos: bool
) -> dict[str, Any]:
    config: dict[str, Any] = {
        # Takes tokenizer.json as it stands, in transformers 4 and 5; other classes rebuild parts of it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
    }
    config |= {f"{name}_token": token for name, token in vocabulary.special.items()}
    if max_length is not None:
        config["model_max_length"] = max_length
    if template is not None:
        config["chat_template"] = template
    return config


def _readable(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
