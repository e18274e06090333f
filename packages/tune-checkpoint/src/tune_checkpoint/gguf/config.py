"""`config.json` and `generation_config.json` of a Llama or Qwen2 model, from GGUF metadata."""

import struct
from collections import Counter
from pathlib import Path
from typing import Any

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.gguf.llama import ROPE_FREQS, LlamaShape
from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.gguf.reader import GgufHeader
from tune_checkpoint.gguf.rope import llama3_scaling
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.meta.config import DEFAULT_THETA, DecoderSettings, EndTokens
from tune_checkpoint.meta.config import model_config as config_of_decoder
from tune_checkpoint.plan import TensorPlan, TensorSlice

CONTEXT, NORM_EPS = "context_length", "attention.layer_norm_rms_epsilon"
DEFAULT_CONTEXT, DEFAULT_NORM_EPS = 2048, 1e-6


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
    tokens = EndTokens(ids.get("bos"), ids.get("eos"), pad=ids.get("pad"))
    return config_of_decoder(shape, _settings(header, shape), _main_dtype(tensors), tokens)


def assumed_settings(metadata: Metadata) -> list[str]:
    """Warnings of what `config.json` states though the file does not."""
    defaults = {CONTEXT: DEFAULT_CONTEXT, NORM_EPS: DEFAULT_NORM_EPS}
    return [
        f"config.json: the file does not state {metadata.model_key(name)}; {default:g} was written"
        for name, default in defaults.items()
        if metadata.model_key(name) not in metadata
    ]


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


def _settings(header: GgufHeader, shape: LlamaShape) -> DecoderSettings:
    metadata = header.metadata
    theta = metadata.positive_number(metadata.model_key("rope.freq_base"), DEFAULT_THETA)
    window = metadata.positive_int(metadata.model_key("attention.sliding_window"))
    if window is not None and shape.biases:
        raise UnsupportedCheckpointError(
            f"{metadata.path}: a sliding window ({metadata.model_key('attention.sliding_window')}) together "
            "with biases; models with either alone can be converted"
        )
    return DecoderSettings(
        norm_eps=metadata.positive_number(metadata.model_key(NORM_EPS), DEFAULT_NORM_EPS),
        rope_theta=theta,
        max_position_embeddings=metadata.positive_int(metadata.model_key(CONTEXT)) or DEFAULT_CONTEXT,
        rope_scaling=_rope_scaling(header, shape.head_dim, theta),
        model_type=shape.architecture if window is None else "mistral",
        sliding_window=window,
        attention_bias=shape.attention_bias,
        mlp_bias=shape.mlp_bias,
    )


def _rope_scaling(header: GgufHeader, head_dim: int, theta: float) -> dict[str, Any] | None:
    metadata = header.metadata
    kind = metadata.text(metadata.model_key("rope.scaling.type"))
    freqs = next((tensor for tensor in header.tensors if tensor.name == ROPE_FREQS), None)
    if kind in (None, "none"):
        # llama.cpp applies the factors whatever the type says.
        return None if freqs is None else _scaling_from_factors(freqs, head_dim, theta)
    if kind == "linear" and freqs is None:
        factor = metadata.positive_number(metadata.model_key("rope.scaling.factor"), 1.0)
        return {"rope_type": "linear", "factor": factor} if factor != 1.0 else None
    raise UnsupportedCheckpointError(
        f"{header.path}: rotary scaling of type {kind!r} ({metadata.model_key('rope.scaling.type')}); "
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
    return sizes.most_common(1)[0][0]
