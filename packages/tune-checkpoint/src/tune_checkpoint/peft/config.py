"""`adapter_config.json`: what kind of adapter it is, and how much of it is added to the weights.

Source: `LoraConfig` and `get_pattern_key` of huggingface/peft 0.21; LoRA: arXiv 2106.09685, rank-stabilised
LoRA: arXiv 2312.03732, DoRA: arXiv 2402.09353.
"""

import json
import re
from collections.abc import Mapping
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tune_checkpoint.errors import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.planning import read_json

CONFIG_NAME = "adapter_config.json"

KEPT_BASE = ("gaussian", "eva", "orthogonal", "mica")
"""Ways to begin, beside true and false, that leave the weights of the base as they are."""
CHANGED_BASE = ("pissa", "olora", "corda", "lora_ga")
"""Ways that take from the base what they give to the adapter, which peft can undo when it saves."""

# Fields that say nothing about the result, or nothing that the tensors' names and shapes do not say too. Any
# that is neither here nor in AdapterConfig, and is set, asks for something else than LoRA.
_HARMLESS = {
    "auto_mapping",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}

MAX_PATTERN_LENGTH = 500
MAX_PATTERN_PARTS = 4
"""Groups of a regular expression, and what repeats: with few of both, no name takes long to be compared."""


class AdapterConfig(Struct, frozen=True):
    """The fields that decide what is added. The names and defaults are PEFT's."""

    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool | None = False
    use_dora: bool | None = False
    fan_in_fan_out: bool | None = False
    """The weights are stored as (inputs, outputs), as GPT-2's are."""
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    base_model_name_or_path: str | None = None

    def rank_of(self, module: str) -> int:
        """The rank of a module's update."""
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scale_of(self, module: str) -> float:
        """What a module's update is multiplied by."""
        rank, alpha = self.rank_of(module), _by_pattern(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (sqrt(rank) if self.use_rslora else rank)

    def tokens_of(self, module: str) -> list[int]:
        """The rows of an embedding that were trained."""
        indices = self.trainable_token_indices or []
        if isinstance(indices, list):
            return indices
        named = (rows for name, rows in indices.items() if f".{module}".endswith(f".{name}"))
        return next(named, list[int]())


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check what an adapter says of itself.

    Raises:
        CheckpointNotFoundError: the folder is not there, or holds no adapter.
        CorruptFileError: a field is malformed.
        UnsupportedCheckpointError: the adapter is of a kind that is not merged here.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise CheckpointNotFoundError(_not_found(folder))
    fields = read_json(path)
    _check_kind(path, fields)
    try:
        config = msgspec.convert(fields, AdapterConfig)
    except msgspec.ValidationError as error:
        raise CorruptFileError(f"{path}: a field has a wrong value: {error}") from error
    _check_numbers(path, config)
    return config


def _by_pattern(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    """The value of the first pattern that fits the end of a module's name, from a dot on."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _not_found(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; give the folder of a PEFT adapter"
    if not folder.is_dir():
        return f"{folder}: a file; give the folder that holds the adapter, with its {CONFIG_NAME}"
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    return f"{folder}: no {CONFIG_NAME} that can be read, so it is no PEFT adapter; found {found}"


def _check_kind(path: Path, fields: dict[str, Any]) -> None:
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise UnsupportedCheckpointError(
            f"{path}: peft_type is {kind!r}; only 'LORA' is merged here, with rank stabilisation or DoRA. "
            "Merge others with peft's merge_and_unload, if they can be merged at all"
        )
    known = _HARMLESS | set(AdapterConfig.__struct_fields__)
    unknown = next((name for name, value in fields.items() if value and name not in known), None)
    if unknown:
        raise UnsupportedCheckpointError(
            f"{path}: {unknown} is set ({json.dumps(fields[unknown])[:80]}); it changes what the adapter "
            "does in a way that is not known here. Merge it with peft's merge_and_unload"
        )
    begun = fields.get("init_lora_weights")
    if begun in (True, False, None, *KEPT_BASE):
        return
    advice = "merge it with peft"
    if str(begun).lower().startswith(CHANGED_BASE):
        advice = (
            "save it once more as plain LoRA, with peft's "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    elif begun == "loftq":
        advice = "merge it into the weights that LoftQ made, with init_lora_weights set to true"
    raise UnsupportedCheckpointError(
        f"{path}: init_lora_weights is {begun!r}, which changes the weights of the base too, and the adapter "
        f"does not hold how: added to the original weights it makes another model; {advice}"
    )


def _check_numbers(path: Path, config: AdapterConfig) -> None:
    for name, rank in {"r": config.r, **(config.rank_pattern or {})}.items():
        if rank < 1:
            raise CorruptFileError(f"{path}: the rank of {name!r} is {rank}, and must be positive")
    for name, alpha in {"lora_alpha": config.lora_alpha, **(config.alpha_pattern or {})}.items():
        if not isfinite(alpha):
            raise CorruptFileError(f"{path}: the alpha of {name!r} is {alpha}, and must be a number")
    for pattern in (*(config.rank_pattern or {}), *(config.alpha_pattern or {})):
        if not _is_simple(pattern):
            raise UnsupportedCheckpointError(
                f"{path}: the pattern {pattern[:80]!r} is no regular expression, or one that may take very "
                "long to compare; spell out the names of the modules instead"
            )


def _is_simple(pattern: str) -> bool:
    """Say whether a regular expression is one, and can be compared in bounded time."""
    repeats = len(re.findall(r"[*+?{]", pattern))
    if len(pattern) > MAX_PATTERN_LENGTH or repeats + pattern.count("(") > MAX_PATTERN_PARTS:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return not re.search(r"\)[*+?{]", pattern)
