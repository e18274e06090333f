"""Make a model: from a checkpoint folder, or at random."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tune_checkpoint import CheckpointError, LazyTensor, open_checkpoint
from tune_recipes.errors import UserError
from tune_recipes.models.config import ModelConfig, read_model_config
from tune_recipes.models.decoder import Decoder

# safetensors' names of the types that weights are trained from
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_model(folder: Path | str, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Decoder:
    """Build the model that a folder's `config.json` describes and fill it from the folder's safetensors.

    Args:
        folder: A Hugging Face model folder.
        dtype: Type of the parameters in memory, whatever the file holds.
        device: Where they live.

    Raises:
        UserError: The folder is no supported model, or its tensors are not those that its config asks for.
    """
    config = read_model_config(folder)
    model = empty_model(config, dtype=dtype, device=device)
    load_weights_(model, folder)
    return model


def build_model(
    config: ModelConfig, *, seed: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Decoder:
    """Build a randomly initialised model: weights normal, norms one, biases zero.

    The same seed gives the same weights on every device, and up to rounding in every type.

    Args:
        config: The model's shape.
        seed: What the weights are drawn from.
        dtype: Type of the parameters in memory.
        device: Where they live.
    """
    model = empty_model(config, dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in _matrices(model):
            drawn = torch.empty(module.weight.shape).normal_(0, config.initializer_range, generator=generator)
            module.weight.copy_(drawn)
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1)
            elif name.endswith(".bias"):
                parameter.zero_()
    return model


def empty_model(config: ModelConfig, *, dtype: torch.dtype, device: torch.device | str) -> Decoder:
    """Build a model whose parameters are allocated and not yet filled; on `meta`, not even allocated."""
    with torch.device("meta"):
        model = Decoder(config).to(dtype)
    model.to_empty(device=device)
    model.tie_weights_()
    return model


@torch.no_grad()
def load_weights_(model: Decoder, folder: Path | str) -> None:
    """Fill a model's parameters from a folder's safetensors, one tensor at a time, by name.

    Raises:
        UserError: A tensor is missing, left over, misshapen, or of a type that holds no plain weights.
    """
    try:
        checkpoint = open_checkpoint(Path(folder))
    except CheckpointError as error:
        raise UserError(str(error)) from error
    wanted = dict(model.named_parameters())  # a tied head stands in it once, as the embedding
    left_over = [
        name for name in checkpoint if name not in wanted and not _is_redundant(name, model, checkpoint)
    ]
    _check_names(wanted, checkpoint, left_over, folder)
    for name, parameter in wanted.items():
        tensor = checkpoint[name]
        if tuple(tensor.shape) != tuple(parameter.shape):
            raise UserError(
                f"{folder}: tensor {name} has shape {list(tensor.shape)}, "
                f"but config.json asks for {list(parameter.shape)}."
            )
        parameter.copy_(to_torch(tensor, name))


def to_torch(tensor: LazyTensor, name: str) -> Tensor:
    """Copy a tensor of a checkpoint into memory of its own, in the type that the file holds.

    Raises:
        UserError: The type is not one of float32, float16 and bfloat16.
    """
    if tensor.dtype not in _DTYPES:
        raise UserError(
            f"tensor {name} is of type {tensor.dtype}; supported are {', '.join(_DTYPES)}. "
            "Quantised checkpoints cannot be trained as they are: convert them first."
        )
    # The file is mapped read-only, which torch has no notion of: hence the bytearray, a copy.
    return torch.frombuffer(bytearray(tensor.buffer()), dtype=_DTYPES[tensor.dtype]).reshape(
        tuple(tensor.shape)
    )


def _matrices(model: nn.Module) -> Iterable[nn.Linear | nn.Embedding]:
    """All linear layers and the embedding; a tied head shares the embedding's weights and is left out."""
    seen: set[Tensor] = set()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight not in seen:
            seen.add(module.weight)
            yield module


def _is_redundant(name: str, model: Decoder, checkpoint: Mapping[str, LazyTensor]) -> bool:
    """Say whether a tensor tells nothing that the config and the other tensors do not."""
    if name.endswith(".rotary_emb.inv_freq"):  # early Llama checkpoints carry their RoPE frequencies
        return True
    if name != "lm_head.weight" or not model.config.tie_word_embeddings:
        return False
    head, embedding = checkpoint[name], checkpoint.get("model.embed_tokens.weight")
    return embedding is not None and torch.equal(to_torch(head, name), to_torch(embedding, name))


def _check_names(
    wanted: Mapping[str, Tensor], checkpoint: Mapping[str, object], left_over: list[str], folder: Path | str
) -> None:
    """Refuse a checkpoint that lacks a tensor or has one too many."""
    missing = [name for name in wanted if name not in checkpoint]
    if missing:
        hint = ""
        if "lm_head.weight" in missing:
            hint = ' If head and embedding are one, config.json needs "tie_word_embeddings": true.'
        shape = list(wanted[missing[0]].shape)
        raise UserError(
            f"{folder}: tensor {missing[0]} of shape {shape} is missing{_and_more(missing)}, but config.json "
            f"asks for it.{hint} Are all of the model's *.safetensors there?"
        )
    if left_over:
        hint = ""
        if "lm_head.weight" in left_over:
            hint = ' It differs from the embedding: config.json should say "tie_word_embeddings": false.'
        raise UserError(
            f"{folder}: tensor {left_over[0]} is unexpected{_and_more(left_over)}: the model that "
            f"config.json describes has no such tensor.{hint}"
        )


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
