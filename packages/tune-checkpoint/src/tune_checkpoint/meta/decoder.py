"""The Llama decoder: its sizes, and what its tensors are called by Meta and by Hugging Face.

Source: `Transformer` in models/llama3/model.py of meta-llama/llama-models for Meta's names; transformers'
`LlamaForCausalLM` for the others and their order.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from tune_checkpoint.plan import Cast, Dequantise, Op, ReorderHeads

EMBEDDING, NORM, HEAD = "tok_embeddings.weight", "norm.weight", "output.weight"
HF_EMBEDDING, HF_NORM, HF_HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

LAYER_TENSORS = {
    "attention.wq.weight": ("self_attn.q_proj.weight", "QH"),
    "attention.wk.weight": ("self_attn.k_proj.weight", "KH"),
    "attention.wv.weight": ("self_attn.v_proj.weight", "KH"),
    "attention.wo.weight": ("self_attn.o_proj.weight", "HQ"),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", "FH"),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", "FH"),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", "HF"),
    "attention_norm.weight": ("input_layernorm.weight", "H"),
    "ffn_norm.weight": ("post_attention_layernorm.weight", "H"),
}
"""Name after `layers.N.` -> name after `model.layers.N.`, and the dimensions.

V: vocabulary, H: hidden, Q: query heads x head_dim, K: key-value heads x head_dim, F: feed-forward."""

QUERY, KEY = "attention.wq.weight", "attention.wk.weight"
"""The projections that are rotated: Meta pairs neighbours in a head, Hugging Face its halves."""


class StatedSizes(Struct, frozen=True):
    """The sizes that a configuration must state, since the weights do not tell them."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int


class DecoderSizes(Struct, frozen=True):
    """The sizes of a model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    is_tied: bool
    """The embedding is the head too."""

    def dims(self, letters: str) -> tuple[int, ...]:
        """The dimensions that LAYER_TENSORS writes as letters."""
        sizes = {
            "V": self.vocab_size,
            "H": self.hidden_size,
            "Q": self.num_attention_heads * self.head_dim,
            "K": self.num_key_value_heads * self.head_dim,
            "F": self.intermediate_size,
        }
        return tuple(sizes[letter] for letter in letters)

    def rotated_heads(self, name: str) -> int | None:
        """The heads of a projection that is rotated; None of any other tensor."""
        if name.endswith(QUERY):
            return self.num_attention_heads
        return self.num_key_value_heads if name.endswith(KEY) else None


def in_pairs(ops: Sequence[Op], num_heads: int) -> tuple[Op, ...]:
    """What makes a projection whose heads pair neighbours, from what makes Hugging Face's.

    Reordered last, or not reordered before: what rounds or expands single elements minds no order of rows.
    """
    for index in reversed(range(len(ops))):
        if ops[index] == ReorderHeads(num_heads, "halves"):
            return (*ops[:index], *ops[index + 1 :])
        if not isinstance(ops[index], Dequantise | Cast):
            break
    return (*ops, ReorderHeads(num_heads, "pairs"))


def decoder_tensors(num_layers: int, is_tied: bool) -> Iterator[tuple[str, str, str]]:
    """(name in Meta's files, name in Hugging Face's, dimensions) of every tensor, in transformers' order."""
    yield EMBEDDING, HF_EMBEDDING, "VH"
    for layer in range(num_layers):
        for name, (hf_name, letters) in LAYER_TENSORS.items():
            yield f"layers.{layer}.{name}", f"model.layers.{layer}.{hf_name}", letters
    yield NORM, HF_NORM, "H"
    if not is_tied:
        yield HEAD, HF_HEAD, "VH"
