"""Reads `adapter_config.json` of a PEFT folder: is it plain LoRA, and of which model? Imports no torch."""

import json
from pathlib import Path
from typing import Any

from tune_recipes.catalog import shown
from tune_recipes.errors import UserError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"

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


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read the `adapter_config.json` of an adapter folder: PEFT's fields.

    Raises:
        UserError: The folder or the file is missing, a field is malformed, or the adapter is no plain LoRA.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        what = f"no {CONFIG_FILE} in it" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {what}. Expected a PEFT folder with {CONFIG_FILE} and {WEIGHTS_FILE}.")
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


def base_of_adapter(folder: Path) -> Path:
    """Return the folder of the base model that a PEFT adapter names.

    Raises:
        UserError: It names none that is here, or is no plain LoRA.
    """
    named = read_adapter_config(folder).get("base_model_name_or_path")
    if not named or not Path(named).is_dir():
        raise UserError(
            f"{folder}: the adapter's base model {named or '(it names none)'} is not here\n"
            f"  give the base as model=FOLDER and this one as adapter={shown(folder)}"
        )
    return Path(named)
