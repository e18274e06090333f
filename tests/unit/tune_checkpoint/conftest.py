"""Small GGUF files of the Llama architecture, written by the gguf package, whose weights are known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FEED_FORWARD, LAYERS, VOCAB = 64, 4, 2, 16, 96, 2, 300

READ_ONLY = {
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS",
    "IQ3_S", "IQ4_NL", "IQ4_XS",
}  # fmt: skip
"""Types that the gguf package cannot write: rows of whole blocks get random bytes."""

Tensors = dict[str, np.ndarray]


@dataclass
class LlamaFile:
    """What to put into a file. Weights are in Hugging Face's order; the file gets llama.cpp's."""

    path: Path
    quant: str = "F32"
    tied: bool = True
    biases: bool = False
    arch: str = "llama"
    drop: tuple[str, ...] = ()
    """Tensors to leave out, by GGUF name."""
    extra: Tensors = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further metadata: int -> uint32, float -> float32."""
    hidden: int = HIDDEN
    feed_forward: int = FEED_FORWARD
    vocab: int = VOCAB
    rope_theta: float = 50000.0
    split_max_tensors: int = 0
    """Tensors in one part, at most; 0 for a single file. Parts get their numbers after `path`'s stem."""
    tensors: Tensors = field(default_factory=dict)
    """Filled when the file is written: Hugging Face name -> float32 weights before quantisation, or what the
    blocks of a READ_ONLY type stand for."""


@pytest.fixture
def write_llama(tmp_path: Path) -> Callable[..., LlamaFile]:
    """A function that writes a small model and says what it wrote."""

    def write(**options: Any) -> LlamaFile:
        file = LlamaFile(options.pop("path", tmp_path / "model.gguf"), **options)
        _write(file)
        return file

    return write


@pytest.fixture(scope="session")
def write_llama_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LlamaFile]:
    """The same for fixtures that outlive a test."""

    def write(**options: Any) -> LlamaFile:
        file = LlamaFile(tmp_path_factory.mktemp("llama") / "model.gguf", **options)
        _write(file)
        return file

    return write


def permute_like_llama_cpp(weights: np.ndarray, num_heads: int) -> np.ndarray:
    """`LlamaModel.permute` of convert_hf_to_gguf.py."""
    half = weights.shape[0] // num_heads // 2
    return weights.reshape(num_heads, 2, half, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def _write(file: LlamaFile) -> None:
    writer = gguf.GGUFWriter(file.path, file.arch, split_max_tensors=file.split_max_tensors)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(file.hidden)
    writer.add_feed_forward_length(file.feed_forward)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(file.rope_theta)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in file.metadata.items():
        _add_metadata(writer, key, value)
    for name, hf_name, weights in _weights(file):
        if name in file.drop:
            continue
        if file.quant in READ_ONLY and _is_of_blocks(weights, file.quant):
            weights = _add_made_up(writer, name, weights.shape, file.quant)
        else:
            _add_tensor(writer, name, weights, file.quant)
        file.tensors[hf_name] = weights
    for name, weights in file.extra.items():
        _add_tensor(writer, name, weights, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_tensor(writer: gguf.GGUFWriter, name: str, weights: np.ndarray, quant: str) -> None:
    if ".attn_q." in name or ".attn_k." in name:
        weights = permute_like_llama_cpp(weights, HEADS if ".attn_q." in name else KV_HEADS)
    # Vectors are F32 whatever the file's type, and so here are rows that do not divide into blocks.
    kind = GGMLQuantizationType[quant if _is_of_blocks(weights, quant) else "F32"]
    writer.add_tensor(name, np.ascontiguousarray(gguf.quantize(weights, kind)), raw_dtype=kind)


def _is_of_blocks(weights: np.ndarray, quant: str) -> bool:
    elements, _ = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[quant]]
    return weights.ndim > 1 and weights.shape[1] % elements == 0


def _add_made_up(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], quant: str) -> np.ndarray:
    """Add blocks of random bytes, and give what they stand for, in Hugging Face's order."""
    kind = GGMLQuantizationType[quant]
    elements, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(len(name))
    blocks = rng.integers(0, 256, (shape[0], shape[1] // elements * num_bytes), np.uint8)
    writer.add_tensor(name, blocks, raw_dtype=kind)
    weights = gguf.dequantize(blocks, kind)
    if ".attn_q." in name or ".attn_k." in name:
        heads = HEADS if ".attn_q." in name else KV_HEADS
        weights = weights.reshape(heads, -1, 2, shape[1]).swapaxes(1, 2).reshape(shape)
    return weights


def _weights(file: LlamaFile) -> list[tuple[str, str, np.ndarray]]:
    """(name in GGUF, name in Hugging Face, random float32 weights)."""
    rng = np.random.default_rng(0)
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes: list[tuple[str, str, tuple[int, ...]]] = [
        ("token_embd.weight", "model.embed_tokens.weight", (file.vocab, file.hidden))
    ]
    for n in range(LAYERS):
        gg, hf = f"blk.{n}.", f"model.layers.{n}."
        shapes += [
            (gg + "attn_norm.weight", hf + "input_layernorm.weight", (file.hidden,)),
            (gg + "attn_q.weight", hf + "self_attn.q_proj.weight", (queries, file.hidden)),
            (gg + "attn_k.weight", hf + "self_attn.k_proj.weight", (keys, file.hidden)),
            (gg + "attn_v.weight", hf + "self_attn.v_proj.weight", (keys, file.hidden)),
            (gg + "attn_output.weight", hf + "self_attn.o_proj.weight", (file.hidden, queries)),
            (gg + "ffn_norm.weight", hf + "post_attention_layernorm.weight", (file.hidden,)),
            (gg + "ffn_gate.weight", hf + "mlp.gate_proj.weight", (file.feed_forward, file.hidden)),
            (gg + "ffn_up.weight", hf + "mlp.up_proj.weight", (file.feed_forward, file.hidden)),
            (gg + "ffn_down.weight", hf + "mlp.down_proj.weight", (file.hidden, file.feed_forward)),
        ]
        if file.biases:
            shapes += [
                (gg + "attn_q.bias", hf + "self_attn.q_proj.bias", (queries,)),
                (gg + "attn_k.bias", hf + "self_attn.k_proj.bias", (keys,)),
                (gg + "attn_v.bias", hf + "self_attn.v_proj.bias", (keys,)),
                (gg + "attn_output.bias", hf + "self_attn.o_proj.bias", (file.hidden,)),
            ]
    shapes.append(("output_norm.weight", "model.norm.weight", (file.hidden,)))
    if not file.tied:
        shapes.append(("output.weight", "lm_head.weight", (file.vocab, file.hidden)))
    return [(name, hf_name, rng.standard_normal(shape, np.float32)) for name, hf_name, shape in shapes]
