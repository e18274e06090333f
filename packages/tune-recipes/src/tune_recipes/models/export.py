"""Write a model as a Hugging Face folder, which transformers, and what reads its folders, loads unchanged."""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tune_checkpoint import TensorOut, atomic_folder, write_checkpoint
from tune_recipes.models.config import ModelConfig, hf_config, read_config_json
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.sharded import whole

if TYPE_CHECKING:
    from tune_recipes.train.distributed import World

# torch's types in safetensors' spelling
_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

# What completes a folder besides weights and config.json: tokenizer, chat template, generation defaults.
COMPANION_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def save_model(
    model: Decoder,
    folder: Path | str,
    *,
    config: ModelConfig,
    source: Path | str | None,
    world: "World | None" = None,
) -> None:
    """Write weights, `config.json` and what the source folder has of tokenizer, chat template and defaults.

    Args:
        model: A decoder without adapters; its parameters' type is the file's.
        folder: Where to. It appears when it is whole; what stood there before is replaced.
        config: The model's shape.
        source: The folder that the model or its tokenizer came from. What its `config.json` says beyond the
            model's shape is kept.
        world: The processes that the model is split over; all of them must call it, and the first one writes,
            gathering one tensor at a time.
    """
    # named_parameters leaves out a tied head, as transformers does.
    weights = dict(model.named_parameters())
    stored_dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    described = hf_config(config, stored_dtype)
    if source is not None and (Path(source) / "config.json").is_file():
        described = read_config_json(source) | described

    def write(get_whole: Callable[[Tensor], Tensor]) -> None:
        with atomic_folder(folder, force=True) as new:
            write_checkpoint(new, tensors_out(weights, get_whole))
            text = json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False)
            (new / "config.json").write_text(text + "\n", encoding="utf-8")
            if source is not None:
                copy_companions(Path(source), new)

    if world is None:
        write(whole)
    else:
        world.one_by_one(list(weights.values()), write)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy the tokenizer, the chat template and the generation defaults, as far as they are there."""
    for name in COMPANION_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def tensors_out(
    tensors: Mapping[str, Tensor], get_whole: Callable[[Tensor], Tensor] = whole
) -> list[TensorOut]:
    """Describe tensors for a writer of safetensors, each gathered on the CPU when its turn comes."""
    return [
        TensorOut(
            name, _DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), partial(_bytes_of, tensor, get_whole)
        )
        for name, tensor in tensors.items()
    ]


def _bytes_of(tensor: Tensor, get_whole: Callable[[Tensor], Tensor]) -> memoryview:
    """Give a tensor's bytes in row-major order, without a copy where it is whole and on the CPU."""
    return get_whole(tensor).cpu().contiguous().view(torch.uint8).numpy().data
