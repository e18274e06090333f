"""From the plan of a Hugging Face folder to the plan of a GGUF file.

Source: `LlamaModel.modify_tensors` and `ModelBase.prepare_tensors` of llama.cpp's convert_hf_to_gguf.py. As
there, vectors stay F32, rows that do not divide into blocks become F16, and embedding and head get the type
of the other matrices, but for ternary types, which cannot hold them.
"""

import os
import struct
from math import prod
from pathlib import Path

from msgspec.structs import replace

from tune_checkpoint.companions import LEGAL
from tune_checkpoint.dtypes import FLOATS
from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.gguf.encode import encode_preamble, text, uint32
from tune_checkpoint.gguf.hf_config import FAMILIES, HfConfig, model_pairs, read_hf_config, rope_factors
from tune_checkpoint.gguf.layout import main_type
from tune_checkpoint.gguf.llama import (
    EMBEDDING,
    HEAD,
    LAYER_TENSORS,
    ROPE_FREQS,
    LlamaShape,
    expected_tensors,
    heads_of,
)
from tune_checkpoint.gguf.model_card import card_values
from tune_checkpoint.gguf.types import BLOCKS, PLAIN_TYPES, QUANTISABLE
from tune_checkpoint.gguf.vocabulary import tokenizer_pairs
from tune_checkpoint.meta.decoder import in_pairs
from tune_checkpoint.plan import Cast, Dequantise, Plan, Quantise, ReorderHeads, TensorPlan

QUANTS = tuple(name.lower() for name in (*PLAIN_TYPES.values(), *QUANTISABLE))
"""What a user may ask for."""

FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12,
    "Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4": 38,
}  # fmt: skip
"""Type of most weights -> `general.file_type`: `LlamaFileType` of the `gguf` package."""
QUANTIZATION_VERSION = 2


def to_gguf(plan: Plan, quant: str | None = None) -> Plan:
    """Plan a GGUF file instead of a Hugging Face folder.

    Args:
        plan: whose target is `hf`, of a Llama, Mistral or Qwen2 model.
        quant: the type of the matrices: one of QUANTS. None keeps each one's, quantised ones as they are.

    Raises:
        CorruptFileError: tensors, configuration or tokenizer contradict each other.
        UnsupportedCheckpointError: GGUF has no place for what the model has.
        ValueError: there is no such `quant`.
    """
    quant = quant.lower() if quant else None
    if quant is not None and quant not in QUANTS:
        raise ValueError(f"quant {quant!r}: one of {', '.join(QUANTS)}, or None to keep what is there")
    config = read_hf_config(plan)
    shape = _shape(plan, config)
    tensors = _tensors(plan, config, shape, quant.upper() if quant else None)
    vocabulary, warnings = tokenizer_pairs(plan, shape.vocab_size)
    pairs = _general_pairs(plan, config, tensors) | model_pairs(config, shape) | vocabulary
    return replace(
        plan,
        target="gguf",
        tensors=tensors,
        # All others are in the metadata, or of no use beside it.
        files=tuple(file for file in plan.files if file.name in LEGAL),
        warnings=(*plan.warnings, *warnings, *_fallback_warnings(tensors, quant)),
        preamble=encode_preamble(pairs, len(tensors)),
    )


def _shape(plan: Plan, config: HfConfig) -> LlamaShape:
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    embedding = by_name.get("model.embed_tokens.weight")
    if embedding is None:
        raise CorruptFileError(f"{plan.source}: tensor 'model.embed_tokens.weight' is missing")
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    if head_dim % 2:
        raise CorruptFileError(
            f"{plan.source}: config.json: a head of {head_dim} elements cannot be rotated in pairs"
        )
    return LlamaShape(
        vocab_size=embedding.shape[0] if embedding.shape else 0,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=head_dim,
        is_tied=config.tie_word_embeddings and "lm_head.weight" not in by_name,
        architecture=FAMILIES[config.architecture],
        biases=tuple(
            name
            for name, (hf_name, _) in LAYER_TENSORS.items()
            if name.endswith(".bias") and f"model.layers.0.{hf_name}" in by_name
        ),
    )


def _tensors(plan: Plan, config: HfConfig, shape: LlamaShape, quant: str | None) -> tuple[TensorPlan, ...]:
    if config.num_hidden_layers > len(plan.tensors):
        raise CorruptFileError(
            f"{plan.source}: config.json states {config.num_hidden_layers} layers, but there are only "
            f"{len(plan.tensors)} tensors"
        )
    remaining = {tensor.name: tensor for tensor in plan.tensors}
    planned: list[TensorPlan] = []
    for name, hf_name, dims in expected_tensors(shape):
        tensor = remaining.pop(hf_name, None)
        if tensor is None:
            raise CorruptFileError(f"{plan.source}: tensor {hf_name!r} is missing (it becomes {name!r})")
        if tensor.shape != dims or not prod(dims):
            raise CorruptFileError(
                f"{plan.source}: tensor {hf_name!r} has shape {list(tensor.shape)}; "
                f"config.json makes it {list(dims)}"
            )
        if tensor.dtype not in FLOATS:
            raise UnsupportedCheckpointError(
                f"{plan.source}: tensor {hf_name!r} is stored as {tensor.dtype}; weights of "
                f"{', '.join(FLOATS)} can be written as GGUF"
            )
        planned.append(_tensor(tensor, name, heads_of(name, shape), quant))
    if remaining:
        names = ", ".join(sorted(remaining)[:3])
        raise UnsupportedCheckpointError(
            f"{plan.source}: {len(remaining)} tensors are no part of a {config.architecture} ({names}); "
            "converting would lose them"
        )
    factors = rope_factors(config, shape.head_dim)
    if factors is not None:
        content = struct.pack(f"<{len(factors)}f", *factors)
        planned.append(TensorPlan(ROPE_FREQS, "F32", (len(factors),), (), content=content))
    return tuple(planned)


def _tensor(tensor: TensorPlan, name: str, heads: int | None, quant: str | None) -> TensorPlan:
    ops = tensor.ops if heads is None else in_pairs(tensor.ops, heads)
    # The source's own type, as long as nothing is done to its values but to expand them.
    is_kept = bool(tensor.sources) and all(isinstance(op, ReorderHeads | Dequantise) for op in ops)
    stored = tensor.sources[0].dtype if is_kept else tensor.dtype
    wanted = _wanted_type(name, tensor.shape, quant or stored)
    if is_kept and wanted == stored:
        ops = tuple(op for op in ops if not isinstance(op, Dequantise))
    elif wanted in BLOCKS:
        ops = (*ops, Quantise(wanted))
    elif wanted != tensor.dtype:
        ops = (*ops, Cast(wanted))
    return replace(tensor, name=name, dtype=wanted, ops=ops)


def _wanted_type(name: str, shape: tuple[int, ...], quant: str) -> str:
    if len(shape) == 1 or quant == "F64":
        return "F32"
    if quant in ("TQ1_0", "TQ2_0") and name in (EMBEDDING, HEAD):
        return "F16"
    return quant if shape[-1] % BLOCKS.get(quant, (1, 0))[0] == 0 else "F16"


def _general_pairs(plan: Plan, config: HfConfig, tensors: tuple[TensorPlan, ...]) -> dict[str, bytes]:
    source = Path(plan.source).resolve()
    name = source.stem if source.suffix in (".gguf", ".safetensors") else source.name
    pairs = {
        "general.architecture": text(FAMILIES[config.architecture]),
        "general.type": text("model"),
        "general.name": text(os.fsencode(name).decode(errors="replace")),
        "general.quantization_version": uint32(QUANTIZATION_VERSION),
    }
    pairs |= {key: text(value) for key, value in card_values(plan.files).items()}
    file_type = FILE_TYPES.get(main_type(tensors))
    return pairs if file_type is None else pairs | {"general.file_type": uint32(file_type)}


def _fallback_warnings(tensors: tuple[TensorPlan, ...], quant: str | None) -> list[str]:
    wanted = (quant or "").upper()
    if wanted not in BLOCKS:
        return []
    elements = BLOCKS[wanted][0]
    rest = [t for t in tensors if len(t.shape) > 1 and prod(t.shape) and t.shape[-1] % elements]
    if not rest:
        return []
    return [
        f"{rest[0].name}: rows of {rest[0].shape[-1]} do not divide into {wanted} blocks of {elements}; "
        f"{len(rest)} tensors like it were written as F16"
    ]
