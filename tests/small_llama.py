"""A small random model of the Llama family in a Hugging Face folder, written by the safetensors library."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

HIDDEN, HEADS, KV_HEADS, FEED_FORWARD, LAYERS, VOCAB = 32, 4, 2, 48, 3, 40

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FEED_FORWARD,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}

Weights = dict[str, np.ndarray]


def small_weights(dtype: Any = np.float32, *, has_head: bool = False) -> Weights:
    """Random weights under Hugging Face's names."""
    keys = HIDDEN // HEADS * KV_HEADS
    layer = {
        "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        "self_attn.k_proj.weight": (keys, HIDDEN),
        "self_attn.v_proj.weight": (keys, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "mlp.gate_proj.weight": (FEED_FORWARD, HIDDEN),
        "mlp.up_proj.weight": (FEED_FORWARD, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, FEED_FORWARD),
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for n in range(LAYERS):
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (HIDDEN,)
    if has_head:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32).astype(dtype) for name, shape in shapes.items()}


def write_folder(
    folder: Path,
    weights: Weights,
    config: Mapping[str, Any] | None = None,
    *,
    num_shards: int = 1,
    num_tokens: int = VOCAB,
) -> Path:
    """Write a folder with weights, `config.json` and a tokenizer of so many tokens, one of them added."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    tokenizer = {
        "model": {"type": "BPE", "vocab": {f"t{i}": i for i in range(num_tokens - 1)}},
        "added_tokens": [{"id": num_tokens - 1, "content": "<end>", "special": True}],
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if num_shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    names = list(weights)
    weight_map: dict[str, str] = {}
    for number in range(num_shards):
        file = f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {name: weights[name] for name in names[number::num_shards]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    write_index(folder, weight_map, sum(array.nbytes for array in weights.values()))
    return folder


def write_index(folder: Path, weight_map: Mapping[str, str], total_size: int) -> None:
    """Write `model.safetensors.index.json`."""
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
