"""Small models and PEFT adapters of random weights, written by the safetensors library."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tune_checkpoint.execute import tensor_blocks
from tune_checkpoint.plan import Plan
from tune_checkpoint.sources import Sources

Arrays = dict[str, np.ndarray]

RANDOM = np.random.default_rng(11)
HIDDEN, FEED_FORWARD, VOCAB, RANK = 8, 12, 20, 2
LAYER = "model.layers.0"
QUERY, DOWN = f"{LAYER}.self_attn.q_proj", f"{LAYER}.mlp.down_proj"
EMBEDDING, HEAD, NORM = "model.embed_tokens", "lm_head", "model.norm"
WEIGHTS = {
    f"{EMBEDDING}.weight": (VOCAB, HIDDEN),
    f"{QUERY}.weight": (HIDDEN, HIDDEN),
    f"{QUERY}.bias": (HIDDEN,),
    f"{DOWN}.weight": (HIDDEN, FEED_FORWARD),
    f"{NORM}.weight": (HIDDEN,),
    f"{HEAD}.weight": (VOCAB, HIDDEN),
}
NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
PRECISION = {"F32": 2e-6, "F16": 2**-10, "BF16": 2**-7}
"""Half of it is what rounding may do to a value."""


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, np.float32)


def write_base(folder: Path, weights: Arrays, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB} | config
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def write_adapter(folder: Path, tensors: Arrays, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    named = {f"base_model.model.{name}": array for name, array in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": RANK, "lora_alpha": 3} | config
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def lora(module: str, *, outputs: int = HIDDEN, inputs: int = HIDDEN, rank: int = RANK) -> Arrays:
    return {f"{module}.lora_A.weight": normal(rank, inputs), f"{module}.lora_B.weight": normal(outputs, rank)}


def embedding_lora(module: str) -> Arrays:
    return {
        f"{module}.lora_embedding_A": normal(RANK, VOCAB),
        f"{module}.lora_embedding_B": normal(HIDDEN, RANK),
    }


def made(plan: Plan) -> Arrays:
    """What carrying out a plan gives, in memory."""
    with Sources() as sources:
        return {
            tensor.name: np.frombuffer(
                b"".join(bytes(block) for block in tensor_blocks(tensor, sources)), NUMPY[tensor.dtype]
            ).reshape(tensor.shape)
            for tensor in plan.tensors
        }
