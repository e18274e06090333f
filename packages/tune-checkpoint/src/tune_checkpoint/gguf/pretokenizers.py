"""How a byte-level vocabulary splits text before merging, by the name in `tokenizer.ggml.pre`.

Source: `llama_model_loader`'s table in llama.cpp (llama-vocab.cpp), and the reading of transformers
(integrations/gguf/gguf_tokenizer_mapping.py), whose token ids ours must equal.
"""

from typing import Any

from msgspec import Struct

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class PreTokenizer(Struct, frozen=True):
    """The part of a tokenizer that its name in the file stands for."""

    split: str | None = None
    """A regular expression whose matches are merged apart; None for GPT-2's, which ByteLevel has built in."""
    ignore_merges: bool = False
    """A piece that is in the vocabulary as a whole is taken as such, whatever the merges."""
    add_bos: bool = False
    """Whether llama.cpp begins a text with the BOS token where the file does not say."""

    def to_json(self) -> dict[str, Any]:
        """As tokenizer.json spells it."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        if self.split is None:
            return byte_level | {"use_regex": True}
        split = {"type": "Split", "pattern": {"Regex": self.split}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}


GPT2 = PreTokenizer()
LLAMA3 = PreTokenizer(_LLAMA3, ignore_merges=True, add_bos=True)
TEKKEN = PreTokenizer(_TEKKEN, ignore_merges=True, add_bos=True)

PRE_TOKENIZERS = {
    "default": GPT2,
    "gpt-2": GPT2,
    # The original splits digits off one by one first. Its vocabulary has no token of two digits, so this
    # differs only where spaces come before a digit, and there transformers' reading of the file is followed.
    "smollm": GPT2,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "llama-bpe": LLAMA3,
    "falcon3": LLAMA3,
    "pixtral": LLAMA3,
    "tekken": TEKKEN,
}
"""Name in the file -> what it stands for."""
