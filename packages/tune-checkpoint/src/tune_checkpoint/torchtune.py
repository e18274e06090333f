"""Plans the conversion of what torchtune wrote: Meta's names, Hugging Face's, or its own.

Source: `FullModelMetaCheckpointer`, `FullModelHFCheckpointer` and `FullModelTorchTuneCheckpointer` in
torchtune/training/checkpointing/_checkpointer.py (0.2: `meta_model_0.pt`, `hf_model_0001_0.pt`; 0.6:
`model-00001-of-00001.bin`); for the names torchtune/models/convert_weights.py.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tune_checkpoint.checkpoint import read_tensors
from tune_checkpoint.companions import CONFIG
from tune_checkpoint.errors import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.hf import architecture_of, check_quantised, companions
from tune_checkpoint.meta.assemble import Parts, decoder_sizes, plan_decoder
from tune_checkpoint.meta.decoder import EMBEDDING, HEAD, NORM
from tune_checkpoint.meta.hf_config import check_decoder, stated_sizes
from tune_checkpoint.meta.params import PARAMS, read_params
from tune_checkpoint.meta.planner import plan_with_params
from tune_checkpoint.plan import Kind, Plan, TensorSlice
from tune_checkpoint.planning import planned, read_json
from tune_checkpoint.tied import TIED, has_same_values, untied, untied_warning, without_tied

HF_SHARD = re.compile(r"hf_model_(\d+)_(\d+)\.pt")
"""Which part, and after which epoch."""
WHOLE = re.compile(r"(meta|torchtune)_model_\d+\.pt|model-00001-of-00001\.bin")

LAYER_NAMES = {
    "attn.q_proj.weight": "attention.wq.weight",
    "attn.k_proj.weight": "attention.wk.weight",
    "attn.v_proj.weight": "attention.wv.weight",
    "attn.output_proj.weight": "attention.wo.weight",
    "mlp.w1.weight": "feed_forward.w1.weight",
    "mlp.w2.weight": "feed_forward.w2.weight",
    "mlp.w3.weight": "feed_forward.w3.weight",
    "sa_norm.scale": "attention_norm.weight",
    "mlp_norm.scale": "ffn_norm.weight",
}
"""torchtune's name after `layers.N.` -> Meta's. Its heads have Meta's order."""


def plan_torchtune(path: Path, dtype: str | None, kind: Kind) -> Plan:
    """Plan the conversion of torchtune's output.

    Args:
        path: a folder with one checkpoint, or its file; `config.json` or `params.json` stands beside it.
        dtype: the type of the output (`BF16`); None keeps each tensor's.
        kind: `torchtune`, for the plan.
    """
    files = _files(path)
    tensors = [tensor for file in files for tensor in read_tensors(file)]
    if any(tensor.name.startswith("model.layers.") for tensor in tensors):
        return _plan_hf_names(path, files, tensors, dtype, kind)
    folder = files[0].parent
    is_own = any(tensor.name.startswith("layers.0.attn.") for tensor in tensors)
    called = _metas_names(tensor.name for tensor in tensors) if is_own else None
    parts = Parts(folder, [(files[0], tensors)], called)
    config = read_json(folder / CONFIG)
    if config:
        return _plan_with_config(path, parts, config, dtype, kind)
    if (folder / PARAMS).is_file():
        params, warnings = read_params(folder)
        return plan_with_params(path, parts, params, warnings, dtype, kind)
    raise CheckpointNotFoundError(
        f"{folder}: neither {CONFIG} nor {PARAMS}, and the weights do not tell how many heads they are for; "
        "copy the file from the folder of the model that was trained"
    )


def _files(path: Path) -> list[Path]:
    """The files of the one checkpoint that is meant."""
    folder = path if path.is_dir() else path.parent
    shards: dict[int, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if match := HF_SHARD.fullmatch(entry.name):
            shards.setdefault(int(match[2]), []).append(entry)
    if path.is_file():
        match = HF_SHARD.fullmatch(path.name)
        return [path] if match is None else _complete(shards[int(match[2])])
    found = [[entry] for entry in sorted(folder.iterdir()) if WHOLE.fullmatch(entry.name)]
    found += [shards[epoch] for epoch in sorted(shards)]
    if len(found) == 1:
        return _complete(found[0])
    if not found:
        raise CheckpointNotFoundError(
            f"{folder}: no meta_model_N.pt, hf_model_NNNN_N.pt, torchtune_model_N.pt "
            "or model-00001-of-00001.bin"
        )
    names = ", ".join(files[0].name for files in found)
    raise UnsupportedCheckpointError(
        f"{folder}: {len(found)} checkpoints ({names}); name the file of one instead of the folder"
    )


def _complete(files: list[Path]) -> list[Path]:
    """Refuse a gap among the parts of a checkpoint."""
    numbers = [int(match[1]) for file in files if (match := HF_SHARD.fullmatch(file.name))]
    missing = sorted(set(range(1, max(numbers, default=0))).difference(numbers))
    if missing:
        raise CorruptFileError(
            f"{files[0].parent}: part {missing[0]} of the checkpoint of {files[0].name} is missing, though "
            "later ones are there"
        )
    return files


def _metas_names(names: Iterable[str]) -> dict[str, str]:
    """Meta's name of each tensor that a model needs, by torchtune's."""
    layers = {match[1] for name in names if (match := re.match(r"layers\.(\d+)\.", name))}
    called = {
        f"layers.{layer}.{name}": f"layers.{layer}.{LAYER_NAMES[name]}"
        for layer in layers
        for name in LAYER_NAMES
    }
    return called | {"norm.scale": NORM}


def _plan_with_config(
    path: Path, parts: Parts, config: dict[str, Any], dtype: str | None, kind: Kind
) -> Plan:
    """Meta's or torchtune's names, and a `config.json` that is right for the output too."""
    where = parts.path / CONFIG
    architecture = check_decoder(where, config, "be converted from the names that torchtune has")
    sizes = decoder_sizes(parts, stated_sizes(where, config), needs_head=False)
    is_tied = bool(config.get(TIED, False))
    if HEAD not in parts and not is_tied:
        raise CorruptFileError(
            f"{parts.path}: tensor {HEAD!r} is missing, but {TIED} is not set in {CONFIG}; "
            "they are not of one model"
        )
    for key, present in (
        ("vocab_size", sizes.vocab_size),
        ("intermediate_size", sizes.intermediate_size),
    ):
        if config.get(key, present) != present:
            raise CorruptFileError(
                f"{where}: {key} is {config[key]}, but the weights have {present}; they are not of one model"
            )
    told: tuple[str, ...] = ()
    if (
        is_tied
        and HEAD in parts
        and not all(map(has_same_values, parts.pieces(HEAD), parts.pieces(EMBEDDING)))
    ):
        is_tied, config, told = False, untied(config), (untied_warning(HEAD),)
    tensors = plan_decoder(parts, replace(sizes, is_tied=is_tied), dtype)
    files, warnings = companions(parts.path, config, dtype)
    return Plan(str(path), kind, architecture, tensors, files, (*warnings, *told))


def _plan_hf_names(
    path: Path, files: Sequence[Path], tensors: list[TensorSlice], dtype: str | None, kind: Kind
) -> Plan:
    """Hugging Face's names, of whatever model torchtune trained."""
    names: dict[str, TensorSlice] = {}
    for tensor in tensors:
        if tensor.name in names:
            raise CorruptFileError(
                f"{tensor.path}: tensor {tensor.name!r} is in {Path(names[tensor.name].path).name} too"
            )
        names[tensor.name] = tensor
    folder = files[0].parent
    config = read_json(folder / CONFIG)
    present = {match[1] for name in names if (match := re.match(r"model\.layers\.(\d+)\.", name))}
    stated = config.get("num_hidden_layers", len(present))
    if stated != len(present):
        raise CorruptFileError(
            f"{folder}: layers of the model in the files of this checkpoint: {len(present)}, in {CONFIG}: "
            f"{stated}; files are missing"
        )
    if dtype is not None:
        check_quantised(path, tensors, config)
    kept, corrected, told = without_tied(tensors, config)
    side_files, warnings = companions(folder, corrected, dtype)
    architecture = architecture_of(folder / CONFIG, config)
    plans = tuple(planned(tensor.name, [tensor], dtype) for tensor in kept)
    return Plan(str(path), kind, architecture, plans, side_files, (*warnings, *told))
