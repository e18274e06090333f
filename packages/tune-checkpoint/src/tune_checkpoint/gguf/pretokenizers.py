"""How a byte-level vocabulary splits text before merging, by the name in `tokenizer.ggml.pre`.

Source: `llama_model_loader`'s table in llama.cpp (llama-vocab.cpp), and the reading of transformers
(integrations/gguf/gguf_tokenizer_mapping.py); for `smollm` llama.cpp's alone, for transformers leaves the
digits together.
"""

from typing import Any

from msgspec import Struct

from tune_checkpoint.tokenizers.splits import LLAMA3_SPLIT, TEKKEN_SPLIT, byte_level_split


class PreTokenizer(Struct, frozen=True):
    """The part of a tokenizer that its name in the file stands for."""

    split: str | None = None
    """A regular expression whose matches are merged apart; None for GPT-2's, which ByteLevel has built in."""
    ignore_merges: bool = False
    """A piece that is in the vocabulary as a whole is taken as such, whatever the merges."""
    add_bos: bool = False
    """Whether llama.cpp begins a text with the BOS token where the file does not say."""
    single_digits: bool = False
    """Digits are taken off one by one before, without the space that stands before them."""

    normalizer: dict[str, Any] | None = None
    """What is done to a text before, as tokenizer.json spells it."""

    def to_json(self) -> dict[str, Any]:
        """As tokenizer.json spells it."""
        split = byte_level_split(self.split)
        if not self.single_digits:
            return split
        digits = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [digits, split]}


GPT2 = PreTokenizer()
LLAMA3 = PreTokenizer(LLAMA3_SPLIT, ignore_merges=True, add_bos=True)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN2 = PreTokenizer(QWEN2_SPLIT, normalizer={"type": "NFC"})
TEKKEN = PreTokenizer(TEKKEN_SPLIT, ignore_merges=True, add_bos=True)

PRE_TOKENIZERS = {
    "default": GPT2,
    "gpt-2": GPT2,
    "smollm": PreTokenizer(single_digits=True),
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "llama-bpe": LLAMA3,
    "falcon3": LLAMA3,
    "pixtral": LLAMA3,
    "tekken": TEKKEN,
    "qwen2": QWEN2,
}
"""Name in the file -> what it stands for."""
