"""The tensors of an adapter, and what each of them does to the model.

Source: `get_peft_model_state_dict` and the LoRA layers of huggingface/peft 0.21, for the names and shapes.
"""

import re
from collections import defaultdict
from pathlib import Path

from msgspec import Struct

from tune_checkpoint.checkpoint import read_tensors
from tune_checkpoint.dtypes import FLOATS
from tune_checkpoint.errors import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.plan import TensorSlice

WEIGHTS_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
"""What PEFT puts before the model's own names."""

_MATRICES = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}
_MAGNITUDE = "lora_magnitude_vector"

# PEFT leaves out the adapter's name (`default`) and the end `.weight`, or not.
_ADAPTER = r"(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?"
_FACTOR = re.compile(
    rf"(?P<module>.+)\.(?P<role>lora_(?:embedding_)?[AB]|{_MAGNITUDE}){_ADAPTER}(?:\.weight)?"
)
_TOKENS = re.compile(
    rf"(?P<module>.+)\.token_adapter\.(?P<role>trainable_tokens_delta){_ADAPTER}(?:\.weight)?"
)
_SAVED = re.compile(rf"(?P<module>.+)\.(?P<role>modules_to_save){_ADAPTER}\.(?P<end>.+)")
_BASE_LAYER = re.compile(r"(?P<module>.+)\.base_layer\.(?P<end>weight|bias)")


class Factors(Struct, frozen=True):
    """What was trained of one module: two narrow matrices, whose product is added to its weight.

    Of a linear layer, `a` is (rank, inputs) and `b` (outputs, rank); of an embedding, `a` is
    (rank, vocabulary) and `b` (hidden, rank), and their product is added turned over.
    """

    a: TensorSlice
    b: TensorSlice
    magnitude: TensorSlice | None
    """Of DoRA."""
    is_embedding: bool

    @property
    def rank(self) -> int:
        """What the matrices have in common."""
        return self.a.shape[0]


class AdapterTensors(Struct, frozen=True):
    """All that an adapter holds. The names are the model's own."""

    path: Path
    """The file."""
    factors: dict[str, Factors]
    """By module."""
    tokens: dict[str, TensorSlice]
    """By module: rows of its weight, which take the place of some."""
    saved: dict[str, TensorSlice]
    """By tensor: what was trained whole, and takes the place of the model's."""
    kept: dict[str, TensorSlice]
    """By tensor: weights as they were, under what was trained beside them."""
    slices: tuple[TensorSlice, ...]
    """Every tensor."""


def read_adapter_tensors(folder: Path) -> AdapterTensors:
    """Find out what each tensor of an adapter is.

    Raises:
        CheckpointNotFoundError: the folder has no weights.
        CorruptFileError: a tensor stands there twice, or lacks its other half.
        UnsupportedCheckpointError: the file holds several adapters, or a type that cannot be added.
    """
    path = next((folder / name for name in WEIGHTS_NAMES if (folder / name).exists()), None)
    if path is None:
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8])
        raise CheckpointNotFoundError(f"{folder}: no {' or '.join(WEIGHTS_NAMES)}; found {found}")
    slices = read_tensors(path)
    roles: defaultdict[str, dict[str, TensorSlice]] = defaultdict(dict)
    adapters: set[str] = set()
    for tensor in slices:
        _check_type(tensor)
        role, target, adapter = _classified(tensor.name.removeprefix(PREFIX))
        if target in roles[role]:
            raise CorruptFileError(
                f"{path}: tensors {roles[role][target].name!r} and {tensor.name!r} are the same part of one "
                "module; save the adapter again"
            )
        roles[role][target] = tensor
        adapters |= {adapter} - {""}
    if len(adapters) > 1:
        raise UnsupportedCheckpointError(
            f"{path}: holds several adapters ({', '.join(sorted(adapters))}); save the one to merge alone"
        )
    tokens, saved, kept = (roles.pop(role, {}) for role in ("tokens", "saved", "kept"))
    modules = dict.fromkeys(module for found in roles.values() for module in found)
    factors = {
        module: _factors(
            path, module, {role: found[module] for role, found in roles.items() if module in found}
        )
        for module in modules
    }
    return AdapterTensors(path, factors, tokens, saved, kept, slices)


def _check_type(tensor: TensorSlice) -> None:
    if tensor.dtype not in FLOATS:
        raise UnsupportedCheckpointError(
            f"{tensor.path}: tensor {tensor.name!r} has the type {tensor.dtype}; only {', '.join(FLOATS)} "
            "can be added to weights"
        )


def _classified(name: str) -> tuple[str, str, str]:
    """The role of a tensor, what it belongs to in the model, and the adapter's name if it is there."""
    if match := _FACTOR.fullmatch(name):
        return match["role"], match["module"], match["adapter"] or ""
    if match := _TOKENS.fullmatch(name):
        return "tokens", match["module"], match["adapter"] or ""
    if match := _SAVED.fullmatch(name):
        return "saved", f"{match['module']}.{match['end']}", match["adapter"] or ""
    if match := _BASE_LAYER.fullmatch(name):
        return "kept" if match["end"] == "weight" else "saved", f"{match['module']}.{match['end']}", ""
    return "saved", name, ""


def _factors(path: Path, module: str, found: dict[str, TensorSlice]) -> Factors:
    name_a = "lora_embedding_A" if any(role.startswith("lora_embedding") for role in found) else "lora_A"
    name_b = _MATRICES[name_a]
    if found.keys() - {_MAGNITUDE} != {name_a, name_b}:
        raise CorruptFileError(
            f"{path}: of module {module!r} there is {', '.join(sorted(found))}, not {name_a} and {name_b}: "
            "the adapter is not whole; save it again"
        )
    a, b = found[name_a], found[name_b]
    for tensor in (a, b):
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise CorruptFileError(
                f"{path}: tensor {tensor.name!r} has shape {list(tensor.shape)}, and is to be a matrix. A "
                "training on several devices leaves this where each saves only its part; save it gathered"
            )
    if a.shape[0] != b.shape[1]:
        raise CorruptFileError(
            f"{path}: tensor {a.name!r} has shape {list(a.shape)} and {b.name!r} {list(b.shape)}; the first "
            "number of the one and the last of the other are the rank, and must be equal"
        )
    return Factors(a, b, found.get(_MAGNITUDE), name_a == "lora_embedding_A")
