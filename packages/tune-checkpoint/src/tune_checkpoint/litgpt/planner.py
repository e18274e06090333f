"""The plan that turns a LitGPT checkpoint into a Hugging Face folder.

Queries, keys and values are one matrix: all queries, all keys, all values; in files of older versions the
queries of a group, its key and its value, group by group. Heads are rotated as Hugging Face does.

Source: `CausalSelfAttention` and `apply_rope` in litgpt/model.py of Lightning-AI/litgpt, and `qkv_reassemble`
in its scripts/convert_hf_checkpoint.py.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path

from msgspec.structs import replace

from tune_checkpoint.checkpoint import read_tensors
from tune_checkpoint.dtypes import ITEM_BYTES, TORCH_NAMES
from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.hf import companions
from tune_checkpoint.litgpt.config import check_llama, decoder_settings, stated_sizes
from tune_checkpoint.litgpt.flat_yaml import read_flat_yaml
from tune_checkpoint.meta.assemble import is_same
from tune_checkpoint.meta.config import EndTokens, model_config
from tune_checkpoint.meta.decoder import (
    HF_EMBEDDING,
    HF_HEAD,
    HF_NORM,
    DecoderSizes,
    StatedSizes,
    decoder_tensors,
)
from tune_checkpoint.plan import Kind, Plan, TensorPlan, TensorSlice
from tune_checkpoint.planning import planned, read_json

WEIGHTS, CONFIG = "lit_model.pth", "model_config.yaml"

EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
TOP_NAMES = {HF_EMBEDDING: EMBEDDING, HF_NORM: "transformer.ln_f.weight", HF_HEAD: HEAD}
LAYER_NAMES = {
    "self_attn.o_proj.weight": "attn.proj.weight",
    "mlp.gate_proj.weight": "mlp.fc_1.weight",
    "mlp.up_proj.weight": "mlp.fc_2.weight",
    "mlp.down_proj.weight": "mlp.proj.weight",
    "input_layernorm.weight": "norm_1.weight",
    "post_attention_layernorm.weight": "norm_2.weight",
}
"""Name after `model.layers.N.` -> name after `transformer.h.N.`."""
FUSED, GROUPED = "attn.qkv.weight", "attn.attn.weight"
FUSED_PARTS = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")

Tensors = dict[str, TensorSlice]


def plan_litgpt(path: Path, dtype: str | None, kind: Kind) -> Plan:
    """Plan the conversion of `lit_model.pth`.

    Args:
        path: the folder, or the file; `model_config.yaml` stands beside it.
        dtype: the type of the output (`BF16`); None keeps each tensor's.
        kind: `litgpt`, for the plan.
    """
    folder = path if path.is_dir() else path.parent
    config = read_flat_yaml(folder / CONFIG)
    check_llama(config)
    file = folder / WEIGHTS if path.is_dir() else path
    tensors = {tensor.name: tensor for tensor in read_tensors(file)}
    sizes = _sizes(file, tensors, stated_sizes(config))
    plans = _plan_tensors(file, tensors, sizes, dtype)
    written = plans[0].dtype
    settings = decoder_settings(config)
    made = model_config(sizes, settings, written, _end_tokens(folder))
    files, warnings = companions(folder, made, written if written in TORCH_NAMES else "F32")
    return Plan(str(path), kind, settings.architecture, plans, files, warnings)


def _end_tokens(folder: Path) -> EndTokens:
    """From the `config.json` of the model that was trained, of which LitGPT keeps a copy."""
    config = read_json(folder / "config.json")
    return EndTokens(config.get("bos_token_id"), config.get("eos_token_id"))


def _sizes(file: Path, tensors: Tensors, stated: StatedSizes) -> DecoderSizes:
    embedding = _taken(file, tensors, EMBEDDING)
    up = _taken(file, tensors, f"transformer.h.0.{LAYER_NAMES['mlp.up_proj.weight']}")
    head = _taken(file, tensors, HEAD)
    return DecoderSizes(
        vocab_size=embedding.shape[0] if embedding.shape else 0,
        hidden_size=stated.hidden_size,
        intermediate_size=up.shape[0] if up.shape else 0,
        num_hidden_layers=stated.num_hidden_layers,
        num_attention_heads=stated.num_attention_heads,
        num_key_value_heads=stated.num_key_value_heads,
        head_dim=stated.head_dim,
        is_tied=is_same(head, embedding),
    )


def _plan_tensors(
    file: Path, tensors: Tensors, sizes: DecoderSizes, dtype: str | None
) -> tuple[TensorPlan, ...]:
    """A plan for every tensor of the Hugging Face model, in transformers' order."""
    used = {HEAD}
    plans: list[TensorPlan] = []
    for _, name, letters in decoder_tensors(sizes.num_hidden_layers, sizes.is_tied):
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        if rest in FUSED_PARTS:
            source_name, sources = _fused_rows(file, tensors, f"transformer.h.{layer}.", rest, sizes)
        else:
            source_name = TOP_NAMES.get(name) or f"transformer.h.{layer}.{LAYER_NAMES[rest]}"
            sources = [_checked(_taken(file, tensors, source_name), sizes.dims(letters))]
        used.add(source_name)
        plans.append(planned(name, sources, dtype))
    remaining = sorted(tensors.keys() - used)
    if remaining:
        raise UnsupportedCheckpointError(_no_part(file, remaining))
    return tuple(plans)


def _no_part(file: Path, names: Sequence[str]) -> str:
    if any("lora_" in name for name in names):
        return f"{file}: has LoRA weights beside the model's; merge them: litgpt merge_lora {file.parent}"
    return (
        f"{file}: {len(names)} tensors are no part of a Llama model ({', '.join(names[:3])}); "
        "converting would lose them"
    )


def _taken(file: Path, tensors: Tensors, name: str) -> TensorSlice:
    if name not in tensors:
        raise CorruptFileError(
            f"{file}: tensor {name!r} is missing; the file and {CONFIG} are not of one model"
        )
    return tensors[name]


def _checked(tensor: TensorSlice, dims: tuple[int, ...]) -> TensorSlice:
    if tensor.shape != dims or not tensor.nbytes:
        raise CorruptFileError(
            f"{tensor.path}: tensor {tensor.name!r} has shape {list(tensor.shape)}; "
            f"{CONFIG} makes it {list(dims)}"
        )
    return tensor


def _fused_rows(
    file: Path, tensors: Tensors, prefix: str, part: str, sizes: DecoderSizes
) -> tuple[str, list[TensorSlice]]:
    """The rows of the queries, keys or values in a matrix of all three, and its name."""
    name = prefix + (GROUPED if prefix + GROUPED in tensors else FUSED)
    groups, head = sizes.num_key_value_heads, sizes.head_dim
    queries = sizes.num_attention_heads // groups * head  # rows of a group
    fused = _checked(_taken(file, tensors, name), (groups * (queries + 2 * head), sizes.hidden_size))
    rows = (queries, head, head)
    index = FUSED_PARTS.index(part)
    if name.endswith(FUSED):
        return name, [_rows(fused, groups * sum(rows[:index]), groups * rows[index])]
    starts = range(sum(rows[:index]), fused.shape[0], sum(rows))
    return name, [_rows(fused, start, rows[index]) for start in starts]


def _rows(tensor: TensorSlice, start: int, count: int) -> TensorSlice:
    """Some of the rows of a matrix."""
    width, item = tensor.shape[1], ITEM_BYTES[tensor.dtype]
    step = width if tensor.strides is None else tensor.strides[0]
    shape = (count, width)
    return replace(tensor, shape=shape, offset=tensor.offset + start * step * item, nbytes=prod(shape) * item)
