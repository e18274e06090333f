"""Plans a conversion of weights that have Hugging Face's names already, in safetensors or in torch files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tune_checkpoint.checkpoint import read_whole
from tune_checkpoint.companions import (
    CONFIG,
    GENERATION_CONFIG,
    copied_companions,
    find_companions,
    find_strangers,
    is_vocabulary,
)
from tune_checkpoint.dtypes import TORCH_NAMES
from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.kinds import kind_of_tensors
from tune_checkpoint.plan import Kind, Plan, SideFile, TensorSlice
from tune_checkpoint.planning import copied_file, is_object, json_file, planned, read_json
from tune_checkpoint.tied import without_tied

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
"""Ends of the names of files that have weights, or say where they are."""
DTYPE_KEYS = ("torch_dtype", "dtype")
"""Where a configuration says what type the weights have, its older and its newer versions."""
BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.masked_bias")
"""Ends of names that old files have, of constants that transformers computes."""
OTHER_NAMES = {
    "gguf": "a GGUF model",
    "litgpt": "weights under LitGPT's names",
    "meta": "weights under Meta's names",
    "torchtune": "weights under torchtune's names",
}


def plan_hf(path: Path, dtype: str | None, kind: Kind) -> Plan:
    """Plan the conversion of a checkpoint that has Hugging Face's names already.

    Args:
        path: a folder, or a file whose companions stand beside it; a shard stands for all of them.
        dtype: the type of the output (`BF16`); None keeps each tensor's.
        kind: `hf` or `torch`, for the plan.
    """
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / CONFIG)
    tensors = [tensor for tensor in read_whole(path) if not tensor.name.endswith(BUFFERS)]
    _check_names(path, tensors)
    if dtype is not None:
        check_quantised(path, tensors, config)
    kept, corrected, untied = without_tied(tensors, config)
    files, warnings = companions(folder, corrected, dtype)
    architecture = architecture_of(folder / CONFIG, config)
    plans = tuple(planned(tensor.name, [tensor], dtype) for tensor in kept)
    if path.is_dir() and (strangers := find_strangers(folder, _is_no_companion)):
        warnings = (*warnings, _left_behind(strangers))
    return Plan(str(path), kind, architecture, plans, files, (*warnings, *untied))


def architecture_of(where: Path, config: dict[str, Any]) -> str:
    """The name that `config.json` gives the model.

    Args:
        where: the file, for the message.
        config: what is in it.

    Raises:
        CorruptFileError: its list of names is none.
    """
    named = config.get("architectures")
    if not named:
        return str(config.get("model_type") or "unknown")
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise CorruptFileError(f"{where}: architectures is {named!r}; it is to be a list of names")
    return named[0]


def _check_names(path: Path, tensors: Sequence[TensorSlice]) -> None:
    """Refuse what would become a folder that no library can load."""
    found = kind_of_tensors(tensors)
    if found != "torch":
        raise UnsupportedCheckpointError(
            f"{path}: {OTHER_NAMES[found]}, and not weights under Hugging Face's names; leave --from out, or "
            f"say --from {found} (in Python, kind={found!r})"
        )
    if not any("." in tensor.name for tensor in tensors):
        raise UnsupportedCheckpointError(
            f"{path}: no tensor with a name like model.layers.0.mlp.up_proj.weight"
        )


def check_quantised(path: Path, tensors: Sequence[TensorSlice], config: dict[str, Any]) -> None:
    """Refuse to give another type to what is scaled by others, or packed.

    Args:
        path: what is converted, for the message.
        tensors: all that it has.
        config: `config.json`, or nothing.

    Raises:
        UnsupportedCheckpointError: the weights are quantised.
    """
    how = config.get("quantization_config")
    method = how.get("quant_method") if is_object(how) else how
    scaled = next((tensor for tensor in tensors if tensor.dtype.startswith("F8_")), None)
    if how or scaled is not None:
        what = (
            f"as {CONFIG} says ({method})" if how or scaled is None else f"{scaled.name!r} is {scaled.dtype}"
        )
        raise UnsupportedCheckpointError(
            f"{path}: the weights are quantised ({what}) and would have the wrong values in another type; "
            "leave --dtype out (in Python, dtype), or convert the original model"
        )


def _with_dtype(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A configuration, and those of the parts within it, with another type where one is named."""
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if is_object(value):
            changed[key] = _with_dtype(value, name)
        else:
            changed[key] = name if key in DTYPE_KEYS and isinstance(value, str | None) else value
    return changed


def _is_no_companion(path: Path) -> bool:
    """Whether nobody expects it to be copied: weights of any format, a folder, and what is hidden."""
    return path.is_dir() or path.name.startswith(".") or path.name.endswith(WEIGHTS)


def _left_behind(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}: left behind: not known to belong to a model; copy what is wanted"


def companions(
    folder: Path, config: dict[str, Any], dtype: str | None
) -> tuple[tuple[SideFile, ...], tuple[str, ...]]:
    """The small files beside the weights: config, tokenizer, chat template, code; and warnings.

    Args:
        folder: where they stand.
        config: what `config.json` is to say, but for the type of the weights; nothing if there is none.
        dtype: of the output; None keeps each tensor's.
    """
    from tune_checkpoint.tokenizers.missing import missing_tokenizer

    files: list[SideFile] = []
    warnings: list[str] = []
    if not config:
        warnings.append(f"{CONFIG}: none in {folder}; without it no library can load the model")
    elif dtype is None:
        is_as_it_stands = config == read_json(folder / CONFIG)
        files.append(copied_file(folder / CONFIG) if is_as_it_stands else json_file(CONFIG, config))
    else:
        name = TORCH_NAMES[dtype]
        unnamed = not any(key in config for key in DTYPE_KEYS)
        named = {"torch_dtype": name} if unnamed else {}
        files.append(json_file(CONFIG, _with_dtype(config, name) | named))
    beside = [path for path in find_companions(folder) if path.name != CONFIG]
    copied, too_large = copied_companions(folder, beside)
    if not any(is_vocabulary(path.name) for path in beside):
        warnings.append(
            f"tokenizer.json: no tokenizer in {folder}; copy the original model's tokenizer files"
        )
    made, lacking = missing_tokenizer(folder, [path.name for path in beside], config)
    generation = [] if any(path.name == GENERATION_CONFIG for path in beside) else generation_config(config)
    return (*files, *copied, *made, *generation), (*warnings, *too_large, *lacking)


def generation_config(config: dict[str, Any]) -> list[SideFile]:
    """`generation_config.json` from the token ids in `config.json`, if they say what ends a text."""
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {key: config[key] for key in keys if config.get(key) is not None}
    return [json_file(GENERATION_CONFIG, ids)] if "eos_token_id" in ids else []
