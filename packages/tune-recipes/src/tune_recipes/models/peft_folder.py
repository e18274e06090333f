"""Adapter folders as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tune_checkpoint import SafetensorsWriter, atomic_folder
from tune_recipes.errors import UserError
from tune_recipes.models.export import tensors_out

PREFIX = "base_model.model."
"""What PEFT puts before the names of the model that it wraps."""

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# What stands in every file that we write: plain LoRA of a causal language model.
_PLAIN_LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}

# Fields of adapter_config.json that either say nothing about the computation, or nothing that the names and
# shapes of the stored tensors do not say too, or are checked one by one. Any other field that is set asks for
# something that is not plain LoRA.
_HARMLESS_FIELDS = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}


def write_adapter(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter folder. It appears when it is whole; what stood there before is replaced.

    Args:
        folder: Where to.
        config: PEFT's fields that say what was adapted and how.
        tensors: The updates, under the model's own names.
    """
    stored = tensors_out({PREFIX + name: tensor for name, tensor in tensors.items()})
    header = [(tensor.name, tensor.dtype, tensor.shape) for tensor in stored]
    text = json.dumps({**_PLAIN_LORA, **config}, indent=2, sort_keys=True)
    with atomic_folder(folder, force=True) as new:
        with SafetensorsWriter(new / _WEIGHTS, header) as writer:
            for tensor in stored:
                writer.write(tensor.name, tensor.read())
        (new / _CONFIG).write_text(text + "\n", encoding="utf-8")


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read an adapter folder.

    Returns:
        PEFT's fields, and the updates under the model's own names. For an adapted head PEFT also stores the
        weight that was adapted, as `lm_head.base_layer.weight`.

    Raises:
        UserError: The folder holds no adapter, or one that is no plain LoRA.
    """
    return read_adapter_config(folder), _read_tensors(folder)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read the `adapter_config.json` of an adapter folder: PEFT's fields.

    Raises:
        UserError: The folder or the file is missing, a field is malformed, or the adapter is no plain LoRA.
    """
    path = folder / _CONFIG
    if not path.is_file():
        what = f"no {_CONFIG} in it" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {what}. Expected a PEFT folder with {_CONFIG} and {_WEIGHTS}.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(config).__name__}")
    _check_fields(config, path)
    return config


def _check_fields(config: dict[str, Any], path: Path) -> None:
    """Refuse what is malformed and what is no plain LoRA."""
    if config.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type {config.get('peft_type')!r} is not supported, only 'LORA' is")
    for name, value in config.items():
        if name not in _HARMLESS_FIELDS and value and not (name == "bias" and value == "none"):
            raise UserError(f"{path}: {name}: {json.dumps(value)} is not supported: only plain LoRA is")
    # pissa, olora and others also change the base weights, which the adapter's file then does not tell.
    if config.get("init_lora_weights") not in (True, False, None, "gaussian"):
        how = config["init_lora_weights"]
        raise UserError(
            f"{path}: init_lora_weights: {how!r} is not supported: it changes the base weights too"
        )
    for name, kind in (("r", int), ("lora_alpha", int | float)):
        if not isinstance(config.get(name), kind) or config[name] <= 0:
            raise UserError(f"{path}: {name}: expected a positive number, found {config.get(name)!r}")
    dropout, base = config.get("lora_dropout"), config.get("base_model_name_or_path")
    if not (dropout is None or (isinstance(dropout, int | float) and 0 <= dropout <= 1)):
        raise UserError(f"{path}: lora_dropout: expected a number from 0 to 1, found {dropout!r}")
    if not (base is None or isinstance(base, str)):
        raise UserError(f"{path}: base_model_name_or_path: expected a text, found {base!r}")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the updates, under the model's own names."""
    path = folder / _WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder}: no {_WEIGHTS} in it")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be read as safetensors: {error}") from None
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}
    for name in tensors:
        if not name.endswith((".lora_A.weight", ".lora_B.weight", ".base_layer.weight")):
            raise UserError(
                f"{path}: tensor {name} is not supported: only lora_A and lora_B of linear layers are"
            )
    if not tensors:
        raise UserError(f"{path}: there are no tensors in it")
    return tensors
