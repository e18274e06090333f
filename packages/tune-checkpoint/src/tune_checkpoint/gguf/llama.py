"""The Llama family and Qwen2 in GGUF: which tensors a model has, under which names, in which shapes."""

from collections.abc import Iterator
from pathlib import Path

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.gguf.reader import GgufHeader
from tune_checkpoint.meta.decoder import DecoderSizes
from tune_checkpoint.plan import ReorderHeads, TensorPlan, TensorSlice
from tune_checkpoint.planning import planned

LAYER_TENSORS = {
    "attn_norm.weight": ("input_layernorm.weight", "H"),
    "attn_q.weight": ("self_attn.q_proj.weight", "QH"),
    "attn_k.weight": ("self_attn.k_proj.weight", "KH"),
    "attn_v.weight": ("self_attn.v_proj.weight", "KH"),
    "attn_output.weight": ("self_attn.o_proj.weight", "HQ"),
    "attn_q.bias": ("self_attn.q_proj.bias", "Q"),
    "attn_k.bias": ("self_attn.k_proj.bias", "K"),
    "attn_v.bias": ("self_attn.v_proj.bias", "K"),
    "attn_output.bias": ("self_attn.o_proj.bias", "H"),
    "ffn_norm.weight": ("post_attention_layernorm.weight", "H"),
    "ffn_gate.weight": ("mlp.gate_proj.weight", "FH"),
    "ffn_up.weight": ("mlp.up_proj.weight", "FH"),
    "ffn_down.weight": ("mlp.down_proj.weight", "HF"),
    "ffn_gate.bias": ("mlp.gate_proj.bias", "F"),
    "ffn_up.bias": ("mlp.up_proj.bias", "F"),
    "ffn_down.bias": ("mlp.down_proj.bias", "H"),
}
"""Name after `blk.N.` -> name after `model.layers.N.`, and the dimensions.

V: vocabulary, H: hidden, Q: query heads x head_dim, K: key-value heads x head_dim, F: feed-forward."""

ATTENTION_BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias")
QWEN2_BIASES = ATTENTION_BIASES[:3]
MLP_BIASES = ("ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")

EMBEDDING, NORM, HEAD = "token_embd.weight", "output_norm.weight", "output.weight"
ROPE_FREQS = "rope_freqs.weight"

ARCHITECTURES = ("llama", "qwen2")
"""What `general.architecture` may be: Llama, Mistral, SmolLM2 and their kin all go by the first."""


class LlamaShape(DecoderSizes, frozen=True):
    """The sizes of a model, as its metadata and tensor table state them, and what its architecture has."""

    architecture: str
    """One of ARCHITECTURES."""
    biases: tuple[str, ...]
    """The biases that each layer has, by their names in LAYER_TENSORS."""

    @property
    def attention_bias(self) -> bool:
        """Whether the attention's projections have biases."""
        return any(bias in ATTENTION_BIASES for bias in self.biases)

    @property
    def mlp_bias(self) -> bool:
        """Whether the feed-forward projections have biases."""
        return any(bias in MLP_BIASES for bias in self.biases)


def read_shape(header: GgufHeader) -> LlamaShape:
    """The model's sizes.

    Raises:
        CorruptFileError: a size is missing or contradicts another.
        UnsupportedCheckpointError: the file holds a variant of the architecture that is not this decoder.
    """
    metadata = header.metadata
    by_name = {tensor.name: tensor for tensor in header.tensors}
    architecture = _architecture(metadata)
    _refuse_variants(metadata)
    num_layers = metadata.required_int(metadata.model_key("block_count"))
    if num_layers > len(by_name):
        raise CorruptFileError(
            f"{header.path}: {metadata.model_key('block_count')} is {num_layers}, but there are fewer tensors"
        )
    if EMBEDDING not in by_name:
        raise CorruptFileError(f"{header.path}: tensor {EMBEDDING!r} is missing")
    num_heads = metadata.required_int(metadata.model_key("attention.head_count"))
    hidden_size = metadata.required_int(metadata.model_key("embedding_length"))
    return LlamaShape(
        # The embedding knows best: llama.vocab_size is missing from older files.
        vocab_size=by_name[EMBEDDING].shape[0],
        hidden_size=hidden_size,
        intermediate_size=metadata.required_int(metadata.model_key("feed_forward_length")),
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=_key_value_heads(metadata, num_heads),
        head_dim=_head_dim(metadata, hidden_size, num_heads),
        is_tied=HEAD not in by_name,
        architecture=architecture,
        biases=QWEN2_BIASES if architecture == "qwen2" else _llama_biases(header.path, by_name),
    )


def plan_tensors(header: GgufHeader, shape: LlamaShape, dtype: str | None) -> tuple[TensorPlan, ...]:
    """A plan for every tensor of the Hugging Face model, in the order in which transformers saves them.

    Args:
        header: the file.
        shape: its sizes.
        dtype: the type of the output; None keeps each tensor's own, and F32 for a quantised one.

    Raises:
        CorruptFileError: a tensor is missing or has another shape.
        UnsupportedCheckpointError: there are tensors that this model does not have.
    """
    remaining = {tensor.name: tensor for tensor in header.tensors}
    remaining.pop(ROPE_FREQS, None)  # read into the configuration
    plans: list[TensorPlan] = []
    for source_name, name, dims in expected_tensors(shape):
        source = remaining.pop(source_name, None)
        if source is None:
            raise CorruptFileError(f"{header.path}: tensor {source_name!r} is missing (it becomes {name!r})")
        if source.shape != dims:
            raise CorruptFileError(
                f"{header.path}: tensor {source_name!r} has shape {list(source.shape)}; "
                f"the metadata makes it {list(dims)}"
            )
        plans.append(_plan_tensor(source, name, shape, dtype))
    if remaining:
        names = ", ".join(sorted(remaining)[:3])
        raise UnsupportedCheckpointError(
            f"{header.path}: {len(remaining)} tensors are no part of a {shape.architecture} model ({names}); "
            "converting would lose them"
        )
    return tuple(plans)


def _architecture(metadata: Metadata) -> str:
    architecture = metadata.text("general.architecture")
    if architecture is None:
        raise CorruptFileError(f"{metadata.path}: general.architecture is missing from the metadata")
    if architecture not in ARCHITECTURES:
        raise UnsupportedCheckpointError(
            f"{metadata.path}: architecture {architecture!r} cannot be converted; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    return architecture


def _refuse_variants(metadata: Metadata) -> None:
    """What has the name of the architecture in GGUF and is not this decoder."""
    experts = metadata.model_key("expert_count")
    if metadata.integer(experts):
        raise UnsupportedCheckpointError(
            f"{metadata.path}: a mixture of experts ({experts}); dense models can be converted"
        )
    kind = metadata.text("general.type")
    if kind not in (None, "model"):
        raise UnsupportedCheckpointError(
            f"{metadata.path}: general.type is {kind!r}; whole models can be converted"
        )


def _key_value_heads(metadata: Metadata, num_heads: int) -> int:
    key = metadata.model_key("attention.head_count_kv")
    num_kv_heads = metadata.required_int(key) if key in metadata else num_heads
    if num_heads % num_kv_heads:
        raise CorruptFileError(
            f"{metadata.path}: {num_heads} query heads do not share {num_kv_heads} key-value heads"
        )
    return num_kv_heads


def _head_dim(metadata: Metadata, hidden_size: int, num_heads: int) -> int:
    """Elements of a head: stated, or the rotary width, or what the heads have of the hidden size."""
    rotary = metadata.integer(metadata.model_key("rope.dimension_count"))
    stated = metadata.integer(metadata.model_key("attention.key_length"))
    head_dim = stated or rotary or hidden_size // num_heads
    if head_dim <= 0 or head_dim % 2:
        raise CorruptFileError(f"{metadata.path}: a head of {head_dim} elements cannot be rotated in pairs")
    value = metadata.integer(metadata.model_key("attention.value_length"))
    if rotary not in (None, head_dim) or value not in (None, head_dim):
        raise UnsupportedCheckpointError(
            f"{metadata.path}: heads of {head_dim} elements with another rotary or value width; "
            "models whose heads are rotated as a whole can be converted"
        )
    return head_dim


def _llama_biases(path: Path, by_name: dict[str, TensorSlice]) -> tuple[str, ...]:
    return (*_biases(path, by_name, ATTENTION_BIASES), *_biases(path, by_name, MLP_BIASES))


def _biases(path: Path, by_name: dict[str, TensorSlice], kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Those of these biases that the layers have: Hugging Face's Llama has all of a group or none."""
    found = tuple(kind for kind in kinds if f"blk.0.{kind}" in by_name)
    if found not in ((), kinds):
        lacking = ", ".join(kind for kind in kinds if kind not in found)
        raise UnsupportedCheckpointError(
            f"{path}: has {', '.join(sorted(found))} but no {lacking}; "
            "a Hugging Face Llama model has biases on all of these projections or on none"
        )
    return found


def expected_tensors(shape: LlamaShape) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name in GGUF, name in Hugging Face, shape) of every tensor, in the order of the decoder."""
    yield EMBEDDING, "model.embed_tokens.weight", shape.dims("VH")
    for layer in range(shape.num_hidden_layers):
        for source, (name, letters) in LAYER_TENSORS.items():
            if not source.endswith(".bias") or source in shape.biases:
                yield f"blk.{layer}.{source}", f"model.layers.{layer}.{name}", shape.dims(letters)
    yield NORM, "model.norm.weight", shape.dims("H")
    if not shape.is_tied:
        yield HEAD, "lm_head.weight", shape.dims("VH")


def heads_of(name: str, shape: LlamaShape) -> int | None:
    """The heads of a projection in which llama.cpp pairs neighbours, by its name; None of another tensor."""
    if shape.architecture == "qwen2":  # pairs halves, as Hugging Face does
        return None
    if ".attn_q." in name:
        return shape.num_attention_heads
    return shape.num_key_value_heads if ".attn_k." in name else None


def _plan_tensor(source: TensorSlice, name: str, shape: LlamaShape, dtype: str | None) -> TensorPlan:
    heads = heads_of(source.name, shape)
    return planned(name, [source], dtype, ops=[ReorderHeads(heads, "halves")] if heads else [])
