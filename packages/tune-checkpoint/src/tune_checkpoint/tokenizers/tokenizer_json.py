"""`tokenizer.json` and its companions, from the parts that a tokenizer is made of."""

import json
from typing import Any

from msgspec import Struct

from tune_checkpoint.plan import SideFile

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

TURN_ENDS = ("<|eom_id|>", "<|eot_id|>")
"""What ends a message or a turn of Llama 3, besides eos."""

BYTE_LEVEL_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


class AddedToken(Struct, frozen=True):
    """A token that is found in the text as a whole, before it is split."""

    index: int
    content: str
    special: bool
    """Left out when ids are turned into text for people."""


class TokenizerParts(Struct, frozen=True):
    """A tokenizer, its steps as tokenizer.json spells them."""

    model: dict[str, Any]
    pre_tokenizer: dict[str, Any] | None
    decoder: dict[str, Any]
    added_tokens: list[AddedToken]
    special: dict[str, str]
    """bos, eos, unk and pad -> the token, those that there are."""
    ids: dict[str, int]
    """The same -> its id."""
    normalizer: dict[str, Any] | None = None
    add_bos: bool = False
    """A text begins with bos."""
    add_eos: bool = False
    """A text ends with eos."""

    @property
    def end_ids(self) -> list[int]:
        """Every token that ends a generation, eos first."""
        eos = [self.ids["eos"]] if "eos" in self.ids else []
        turns = [token.index for token in self.added_tokens if token.content in TURN_ENDS]
        return list(dict.fromkeys([*eos, *turns]))


def tokenizer_files(
    parts: TokenizerParts, max_length: int | None, chat_template: str | None
) -> list[SideFile]:
    """`tokenizer.json`, `tokenizer_config.json`, and `chat_template.jinja` if there is one.

    Args:
        parts: the tokenizer.
        max_length: tokens that the model takes at most; None if that is not known.
        chat_template: Jinja source.
    """
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(token) for token in parts.added_tokens],
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": _post_processor(parts),
        "decoder": parts.decoder,
        "model": parts.model,
    }
    config = _tokenizer_config(parts, max_length, chat_template)
    files = [
        SideFile("tokenizer.json", json.dumps(content, ensure_ascii=False).encode()),
        SideFile("tokenizer_config.json", (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()),
    ]
    if chat_template is not None:
        files.append(SideFile("chat_template.jinja", chat_template.encode()))
    return files


def sentencepiece_decoder(num_spaces: int) -> dict[str, Any]:
    """Pieces to text: spaces and bytes become what they stand for.

    Args:
        num_spaces: how many spaces at the beginning, if they are there, are not the text's own.
    """
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if num_spaces:
        steps.append({"type": "Strip", "content": " ", "start": num_spaces, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _added_token(token: AddedToken) -> dict[str, Any]:
    return {
        "id": token.index,
        "content": token.content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": token.special,
    }


def _post_processor(parts: TokenizerParts) -> dict[str, Any]:
    special = parts.special

    def ends(type_id: int, sequence: str) -> list[dict[str, Any]]:
        bos = [{"SpecialToken": {"id": special["bos"], "type_id": type_id}}] if parts.add_bos else []
        eos = [{"SpecialToken": {"id": special["eos"], "type_id": type_id}}] if parts.add_eos else []
        return [*bos, {"Sequence": {"id": sequence, "type_id": type_id}}, *eos]

    used = [name for name, added in (("bos", parts.add_bos), ("eos", parts.add_eos)) if added]
    return {
        "type": "TemplateProcessing",
        "single": ends(0, "A"),
        "pair": ends(0, "A") + ends(1, "B"),
        "special_tokens": {
            special[name]: {"id": special[name], "ids": [parts.ids[name]], "tokens": [special[name]]}
            for name in used
        },
    }


def _tokenizer_config(
    parts: TokenizerParts, max_length: int | None, chat_template: str | None
) -> dict[str, Any]:
    config: dict[str, Any] = {
        # Takes tokenizer.json as it stands, in transformers 4 and 5; other classes rebuild parts of it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "add_bos_token": parts.add_bos,
        "add_eos_token": parts.add_eos,
    }
    config |= {f"{name}_token": token for name, token in parts.special.items()}
    if max_length is not None:
        config["model_max_length"] = max_length
    if chat_template is not None:
        config["chat_template"] = chat_template
    return config
