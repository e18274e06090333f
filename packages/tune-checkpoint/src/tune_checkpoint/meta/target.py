"""The way back: from a plan for a Hugging Face folder to one for a folder as Meta publishes it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from msgspec.structs import replace

from tune_checkpoint.companions import LEGAL, is_vocabulary
from tune_checkpoint.dtypes import FLOATS
from tune_checkpoint.errors import UnsupportedCheckpointError
from tune_checkpoint.layout import FileLayout, Placed
from tune_checkpoint.meta.companions import TOKENIZER
from tune_checkpoint.meta.config import DecoderSettings, llama3_scaling
from tune_checkpoint.meta.decoder import (
    EMBEDDING,
    HEAD,
    HF_HEAD,
    KEY,
    QUERY,
    StatedSizes,
    decoder_tensors,
    in_pairs,
)
from tune_checkpoint.meta.ffn import find_multiple
from tune_checkpoint.meta.generations import CONTEXT, generation_of
from tune_checkpoint.meta.hf_config import check_decoder, read_settings, stated_sizes
from tune_checkpoint.meta.params import PARAMS, Params
from tune_checkpoint.plan import Plan, SideFile, TensorPlan
from tune_checkpoint.planning import MAX_SIDE_BYTES, is_object, json_file
from tune_checkpoint.torch_file.layout import torch_layout

WEIGHTS = "consolidated.00.pth"
KEPT = (TOKENIZER, *LEGAL)
"""Files that go along as they are."""


def to_meta(plan: Plan) -> Plan:
    """Plan one `consolidated.00.pth` with `params.json` instead of a Hugging Face folder.

    Args:
        plan: makes a Hugging Face folder of a Llama decoder, from whatever source.

    Raises:
        UnsupportedCheckpointError: the model has what Meta's format has no place for.
        CorruptFileError: its `config.json` contradicts itself.
    """
    where = Path(plan.source)
    config = _config(plan)
    check_decoder(where, config, "be put into Meta's format")
    stated, settings = stated_sizes(where, config), read_settings(where, config)
    tensors = _renamed(plan, stated)
    params, warnings = _params(where, tensors, stated, settings)
    files = [json_file(PARAMS, params), *(file for file in plan.files if file.name in KEPT)]
    below = where / "original" / TOKENIZER  # where the Llama 3 folders of the Hub have Meta's files
    is_of_adapter = any(
        is_vocabulary(file.name) and file.path is not None and Path(file.path).parent != where
        for file in plan.files
    )
    if not is_of_adapter and below.is_file() and below.stat().st_size <= MAX_SIDE_BYTES:
        files = [file for file in files if file.name != TOKENIZER]
        files.append(SideFile(TOKENIZER, below.read_bytes()))
    if not any(file.name == TOKENIZER for file in files):
        warnings.append(
            "tokenizer.model: the source has none, and it cannot be made from tokenizer.json; "
            "copy that of the original model"
        )
    return replace(
        plan,
        tensors=tensors,
        files=tuple(files),
        target="meta",
        warnings=(*(text for text in plan.warnings if not _is_of_lost_file(text)), *warnings),
    )


def meta_layout(plan: Plan) -> tuple[FileLayout, ...]:
    """The one file of a plan that `to_meta` made, as `torch.load` reads it.

    A head that is the embedding becomes a second name of it, as in the files of Llama 3.2.
    """
    specs = [(tensor.name, tensor.dtype, tensor.shape) for tensor in plan.tensors]
    is_tied = all(tensor.name != HEAD for tensor in plan.tensors)
    layout = torch_layout(specs, {HEAD: EMBEDDING} if is_tied else {})
    placed = map(Placed, plan.tensors, layout.offsets)
    return (FileLayout(WEIGHTS, layout.size, (), tuple(placed), layout.pieces),)


def _config(plan: Plan) -> dict[str, Any]:
    content = next((file.content for file in plan.files if file.name == "config.json"), None)
    config: Any = None if content is None else json.loads(content)
    if not is_object(config):
        raise UnsupportedCheckpointError(
            f"{plan.source}: no config.json, from which params.json is made; put it beside the weights"
        )
    return config


def _renamed(plan: Plan, stated: StatedSizes) -> tuple[TensorPlan, ...]:
    """The tensors under Meta's names and in its order of heads, as many as the model has."""
    present = {tensor.name: tensor for tensor in plan.tensors}
    tensors: list[TensorPlan] = []
    for name, hf_name, _ in decoder_tensors(stated.num_hidden_layers, HF_HEAD not in present):
        tensor = present.pop(hf_name, None)
        if tensor is None:
            _refuse(plan.source, f"tensor {hf_name!r} is missing, which becomes {name!r}")
        if tensor.dtype not in FLOATS:
            _refuse(
                plan.source, f"tensor {hf_name!r} is {tensor.dtype}; weights of {', '.join(FLOATS)} can be"
            )
        ops = tensor.ops
        if name.endswith(QUERY):
            ops = in_pairs(ops, stated.num_attention_heads)
        elif name.endswith(KEY):
            ops = in_pairs(ops, stated.num_key_value_heads)
        tensors.append(replace(tensor, name=name, ops=ops))
    if present:
        _refuse(plan.source, f"{len(present)} tensors have no place in it ({', '.join([*present][:3])})")
    return tuple(tensors)


def _params(
    where: Path, tensors: Sequence[TensorPlan], stated: StatedSizes, settings: DecoderSettings
) -> tuple[dict[str, Any], list[str]]:
    """`params.json`, and what it cannot say."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    intermediate_size = shapes["layers.0.feed_forward.w1.weight"][0]
    found = find_multiple(stated.hidden_size, intermediate_size)
    if found is None:
        _refuse(
            where, f"no multiple_of and ffn_dim_multiplier give an intermediate size of {intermediate_size}"
        )
    if stated.head_dim * stated.num_attention_heads != stated.hidden_size:
        _refuse(
            where,
            f"heads of {stated.head_dim} elements (head_dim), where Meta's program has hidden_size / heads, "
            f"{stated.hidden_size / stated.num_attention_heads:g}",
        )
    window = settings.sliding_window
    if window is not None and window < settings.max_position_embeddings:
        _refuse(where, f"a sliding window of {window} tokens (sliding_window)")
    multiple_of, multiplier = found
    params: dict[str, Any] = {
        "dim": stated.hidden_size,
        "n_layers": stated.num_hidden_layers,
        "n_heads": stated.num_attention_heads,
        "n_kv_heads": stated.num_key_value_heads,
        "vocab_size": shapes[EMBEDDING][0],
        "multiple_of": multiple_of,
        "norm_eps": settings.norm_eps,
        "rope_theta": settings.rope_theta,
    }
    if multiplier is not None:
        params["ffn_dim_multiplier"] = multiplier
    scaling, warnings = _scaling(where, settings, is_tied=HEAD not in shapes)
    params |= scaling
    return params, [*warnings, *_lost_context(params, tensors, settings.max_position_embeddings)]


def _lost_context(params: dict[str, Any], tensors: Sequence[TensorPlan], context: int) -> list[str]:
    """That `params.json` does not state the number of tokens, where another would be taken."""
    generation = generation_of(
        msgspec.convert(params, Params),
        vocab_size=params["vocab_size"],
        is_tied=all(tensor.name != HEAD for tensor in tensors),
        dtype=tensors[0].dtype,
        tokenizer=None,
    )
    if context == CONTEXT[generation]:
        return []
    return [
        f"{PARAMS}: it has no place for max_position_embeddings, which is {context}; what reads it goes by "
        f"the generation of Llama, and takes {CONTEXT[generation]}"
    ]


def _scaling(where: Path, settings: DecoderSettings, *, is_tied: bool) -> tuple[dict[str, Any], list[str]]:
    """What `params.json` says of the rotary scaling: that there is one, of Llama 3.1 or 3.2."""
    scaling = settings.rope_scaling
    if scaling is None:
        return {}, []
    factor = scaling.get("factor")
    if not isinstance(factor, int | float) or scaling != llama3_scaling(factor):
        _refuse(where, f"rotary scaling {json.dumps(scaling)}; that of Llama 3.1 and 3.2 can be")
    usual = 32.0 if is_tied else 8.0
    if factor == usual:
        return {"use_scaled_rope": True}, []
    return {"use_scaled_rope": True, "rope_scaling_factor": factor}, [
        f"{PARAMS}: rope_scaling_factor is {factor:g}; programs that do not know it take {usual:g}"
    ]


def _is_of_lost_file(warning: str) -> bool:
    """A warning about a file that Meta's folders do not have."""
    return warning.startswith(("tokenizer.json", "chat_template", "tokenizer_config", "config.json"))


def _refuse(where: Path | str, what: str) -> NoReturn:
    raise UnsupportedCheckpointError(f"{where}: cannot be put into Meta's format: {what}")
