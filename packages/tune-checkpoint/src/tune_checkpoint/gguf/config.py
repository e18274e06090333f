"""`config.json` and `generation_config.json` of a Llama model, from GGUF metadata."""

import struct
from collections import Counter
from pathlib import Path
from typing import Any

from tune_checkpoint.dtypes import TORCH_NAMES
from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.gguf.llama import ROPE_FREQS, LlamaShape
from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.gguf.reader import GgufHeader
from tune_checkpoint.gguf.rope import llama3_scaling
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import TensorPlan, TensorSlice

DEFAULT_ROPE_THETA = 10_000.0
DEFAULT_CONTEXT = 2048


def model_config(
    header: GgufHeader,
    shape: LlamaShape,
    tensors: tuple[TensorPlan, ...],
    ids: dict[str, int],
) -> dict[str, Any]:
    """`config.json`, in words that transformers 4 and 5 both read.

    Args:
        header: of the GGUF model; the few rotary factors that stand among the tensors are read too.
        shape: the model's sizes.
        tensors: what will be written, for the type of the weights.
        ids: bos, eos and pad token, where the file names them.
    """
    metadata = header.metadata
    theta = metadata.positive_number("llama.rope.freq_base", DEFAULT_ROPE_THETA)
    scaling = _rope_scaling(header, shape.head_dim, theta)
    dtype = _main_dtype(tensors)
    window = metadata.positive_int("llama.attention.sliding_window")
    family = _llama(shape) if window is None else _mistral(metadata, shape, window)
    return family | {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": metadata.positive_int("llama.context_length") or DEFAULT_CONTEXT,
        "rms_norm_eps": metadata.positive_number("llama.attention.layer_norm_rms_epsilon", 1e-6),
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "use_cache": True,
        "tie_word_embeddings": shape.tied,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})},
        "torch_dtype": dtype,
        "dtype": dtype,
        "bos_token_id": ids.get("bos"),
        "eos_token_id": ids.get("eos"),
        "pad_token_id": ids.get("pad"),
    }


def generation_config(metadata: Metadata, ids: dict[str, int]) -> dict[str, Any]:
    """`generation_config.json`: the token ids; generation ends at any token that ends a turn."""
    ends = [
        ids.get("eos"),
        metadata.integer("tokenizer.ggml.eot_token_id"),
        metadata.integer("tokenizer.ggml.eom_token_id"),
    ]
    eos = list(dict.fromkeys(token for token in ends if token is not None))
    config: dict[str, Any] = {f"{name}_token_id": ids[name] for name in ("bos", "pad") if name in ids}
    if eos:
        config["eos_token_id"] = eos if len(eos) > 1 else eos[0]
    return config


def _llama(shape: LlamaShape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": shape.attention_bias,
        "mlp_bias": shape.mlp_bias,
    }


def _mistral(metadata: Metadata, shape: LlamaShape, window: int) -> dict[str, Any]:
    """The same decoder with a sliding window, which Hugging Face's Llama does not have, and no biases."""
    if shape.attention_bias or shape.mlp_bias:
        raise UnsupportedCheckpointError(
            f"{metadata.path}: a sliding window (llama.attention.sliding_window) together with biases; "
            "neither Llama nor Mistral of Hugging Face has both"
        )
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}


def _rope_scaling(header: GgufHeader, head_dim: int, theta: float) -> dict[str, Any] | None:
    metadata = header.metadata
    kind = metadata.text("llama.rope.scaling.type")
    freqs = next((tensor for tensor in header.tensors if tensor.name == ROPE_FREQS), None)
    if kind in (None, "none"):
        # llama.cpp applies the factors whatever the type says.
        return None if freqs is None else _scaling_from_factors(freqs, head_dim, theta)
    if kind == "linear" and freqs is None:
        factor = metadata.positive_number("llama.rope.scaling.factor", 1.0)
        return {"rope_type": "linear", "factor": factor} if factor != 1.0 else None
    raise UnsupportedCheckpointError(
        f"{header.path}: rotary scaling of type {kind!r} (llama.rope.scaling.type); "
        "models without, with linear and with llama3 scaling can be converted"
    )


def _scaling_from_factors(freqs: TensorSlice, head_dim: int, theta: float) -> dict[str, Any] | None:
    where = f"{freqs.path}: tensor {freqs.name!r}"
    if freqs.dtype != "F32" or freqs.shape != (head_dim // 2,):
        raise CorruptFileError(f"{where}: is {freqs.dtype} {list(freqs.shape)}, not F32 [{head_dim // 2}]")
    content = MappedFile(Path(freqs.path)).read(freqs.offset, freqs.nbytes, f"tensor {freqs.name!r}")
    factors = struct.unpack(f"<{head_dim // 2}f", content)
    return llama3_scaling(factors, head_dim, theta, where)


def _main_dtype(tensors: tuple[TensorPlan, ...]) -> str:
    """The type of most of the weights: norms are often F32 in a file of halves."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.nbytes
    return TORCH_NAMES[sizes.most_common(1)[0][0]]
