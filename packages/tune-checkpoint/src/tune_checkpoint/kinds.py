"""The kinds of checkpoints, and which of them a path is, by what is in it."""

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tune_checkpoint.checkpoint import (
    BIN_INDEX_NAME,
    BIN_NAME,
    INDEX_NAME,
    SHARD,
    WEIGHTS_NAME,
    format_of,
    read_tensors,
)
from tune_checkpoint.errors import CheckpointError, CheckpointNotFoundError, UnsupportedCheckpointError
from tune_checkpoint.plan import Kind, TensorSlice
from tune_checkpoint.planning import read_json

META_SHARD = re.compile(r"consolidated\.(\d{2})\.pth")
MISTRAL_FILE = re.compile(r"consolidated.*\.safetensors")
TORCHTUNE_FILE = re.compile(r"(meta|hf|torchtune)_model_.*\.pt|model-00001-of-00001\.bin")
TORCHTUNE_PART = re.compile(r"hf_model_\d+_\d+\.pt")
"""Has Hugging Face's names, as any torch file may, and others beside it."""
HF_WEIGHTS = (WEIGHTS_NAME, INDEX_NAME, BIN_NAME, BIN_INDEX_NAME)


def detect_kind(path: Path | str) -> Kind:
    """Say what kind of checkpoint is at a path.

    Args:
        path: a file or a folder.

    Raises:
        CheckpointNotFoundError: nothing is there.
        UnsupportedCheckpointError: it is none of the kinds; the message says what was found.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointNotFoundError(f"{path}: no such file or folder")
    return _kind_of_folder(path) if path.is_dir() else _kind_of_file(path)


def _kind_of_folder(folder: Path) -> Kind:
    names = {entry.name for entry in folder.iterdir()}
    if any(name in names for name in HF_WEIGHTS):
        return "hf"
    if "params.json" in names and any(META_SHARD.fullmatch(name) for name in names):
        return "meta"
    if "params.json" in names and any(MISTRAL_FILE.fullmatch(name) for name in names):
        return "mistral"
    if "lit_model.pth" in names:
        return "litgpt"
    if (files := [name for name in names if name.endswith(".gguf")]) and _are_one_model(files):
        return "gguf"
    if any(TORCHTUNE_FILE.fullmatch(name) for name in names):
        return "torchtune"
    if any(SHARD.fullmatch(name) for name in names):
        return "hf"  # whose reader says which index is missing
    if "adapter_config.json" in names:  # last: torchtune has one beside the merged weights, too
        raise UnsupportedCheckpointError(_adapter(folder))
    found = ", ".join(sorted(names)[:8]) or "nothing"
    raise UnsupportedCheckpointError(
        f"{folder}: no checkpoint that can be read; found {found}\n"
        f"  looked for {', '.join(HF_WEIGHTS)}, consolidated.NN.pth or consolidated.safetensors with "
        "params.json,\n  lit_model.pth, torchtune's *_model_*.pt, or one .gguf model"
    )


def _are_one_model(names: list[str]) -> bool:
    return len({re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", name) for name in names}) == 1


def _adapter(folder: Path) -> str:
    base = "BASE"
    with suppress(CheckpointError):
        base = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or base)
    return (
        f"{folder}: an adapter, and not a model; merge it into the model that it was trained on:\n"
        f"  tune-checkpoint merge {shlex.quote(base)} {shlex.quote(str(folder))} --output-dir DIR"
    )


def _kind_of_file(path: Path) -> Kind:
    found = format_of(path)
    if found == "gguf":
        return "gguf"
    if found == "safetensors":
        if path.name.startswith("consolidated") and (path.parent / "params.json").is_file():
            return "mistral"
        return "hf"
    if META_SHARD.fullmatch(path.name) and (path.parent / "params.json").is_file():
        return "meta"
    if TORCHTUNE_PART.fullmatch(path.name):
        return "torchtune"
    return kind_of_tensors(read_tensors(path))


def kind_of_tensors(tensors: Sequence[TensorSlice]) -> Kind:
    """Tell writers apart by what they call their tensors; `torch` is Hugging Face's names, or others."""
    if tensors and format_of(Path(tensors[0].path)) == "gguf":
        return "gguf"
    names = {tensor.name for tensor in tensors}
    if "transformer.wte.weight" in names and any(".attn.qkv." in n or ".attn.attn." in n for n in names):
        return "litgpt"
    if any(re.fullmatch(r"layers\.\d+\.(attn\.q_proj\.weight|sa_norm\.scale)", name) for name in names):
        return "torchtune"
    if any(re.fullmatch(r"layers\.\d+\.attention\.wq\.weight", name) for name in names):
        return "meta"
    return "torch"
