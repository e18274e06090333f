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
from tune_recipes.models.adapter_config import CONFIG_FILE, WEIGHTS_FILE, read_adapter_config
from tune_recipes.models.export import tensors_out

PREFIX = "base_model.model."
"""What PEFT puts before the names of the model that it wraps."""

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
        with SafetensorsWriter(new / WEIGHTS_FILE, header) as writer:
            for tensor in stored:
                writer.write(tensor.name, tensor.read())
        (new / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read an adapter folder.

    Returns:
        PEFT's fields, and the updates under the model's own names. For an adapted head PEFT also stores the
        weight that was adapted, as `lm_head.base_layer.weight`.

    Raises:
        UserError: The folder holds no adapter, or one that is no plain LoRA.
    """
    return read_adapter_config(folder), _read_tensors(folder)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the updates, under the model's own names."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(f"{folder}: no {WEIGHTS_FILE} in it")
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
