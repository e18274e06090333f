"""Make a model: from a checkpoint folder, or at random."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tune_checkpoint import CheckpointError, LazyTensor, open_checkpoint
from tune_recipes.errors import UserError
from tune_recipes.models.config import ModelConfig, read_model_config
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.sharded import local_part, rows_here

# safetensors' names of the types that weights are trained from
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_ROWS_AT_ONCE = 4096


def load_model(folder: Path | str, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Decoder:
    """Build the model that a folder's `config.json` describes and fill it from the folder's safetensors.

    Args:
        folder: A Hugging Face model folder.
        dtype: Type of the parameters in memory, whatever the file holds.
        device: Where they live.

    Raises:
        UserError: The folder is no supported model, or its tensors are not those that its config asks for.
    """
    model = meta_model(read_model_config(folder), dtype=dtype)
    allocate_(model, device)
    load_weights_(model, folder)
    return model


def meta_model(config: ModelConfig, *, dtype: torch.dtype) -> Decoder:
    """Build a model of shapes and types alone, on the meta device: it takes no memory yet."""
    with torch.device("meta"):
        return Decoder(config).to(dtype)


def allocate_(model: Decoder, device: torch.device | str) -> None:
    """Give the parameters of a model memory on a device, unfilled; split ones take the part that is here."""
    model.to_empty(device=device)
    model.tie_weights_()


@torch.no_grad()
def init_weights_(model: Decoder, *, seed: int) -> None:
    """Fill a model at random: weights normal, norms one, biases zero.

    The same seed gives the same weights on every device and any number of processes, and up to rounding in
    every type. One matrix at a time is held whole.

    Args:
        model: What to fill, allocated.
        seed: What the weights are drawn from.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in _matrices(model):
        weight = module.weight
        drawn = torch.empty(weight.shape).normal_(0, model.config.initializer_range, generator=generator)
        local_part(weight).copy_(drawn[rows_here(weight)])
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            local_part(parameter).fill_(1)
        elif name.endswith(".bias"):
            local_part(parameter).zero_()


@torch.no_grad()
def load_weights_(model: Decoder, folder: Path | str) -> None:
    """Fill the model's own parameters from a folder's safetensors, by name; adapters are left as they are.

    Of each tensor only the rows that this process holds are read, so that no process reads a whole model that
    is split. On the meta device the names and shapes are checked, and nothing is read.

    Raises:
        UserError: A tensor is missing, left over, misshapen, or of a type that holds no plain weights.
    """
    try:
        checkpoint = open_checkpoint(Path(folder))
    except CheckpointError as error:
        raise UserError(str(error)) from error
    # A tied head stands in it once, as the embedding.
    wanted = {name: tensor for name, tensor in model.named_parameters() if ".lora_" not in name}
    left_over = [
        name for name in checkpoint if name not in wanted and not _is_redundant(name, model, checkpoint)
    ]
    _check_names(wanted, checkpoint, left_over, folder)
    for name, parameter in wanted.items():
        if tuple(checkpoint[name].shape) != tuple(parameter.shape):
            raise UserError(
                f"{folder}: tensor {name} has shape {list(checkpoint[name].shape)}, "
                f"but config.json asks for {list(parameter.shape)}."
            )
    for name, parameter in wanted.items():
        if not parameter.is_meta:
            local_part(parameter).copy_(to_torch(checkpoint[name], name, rows_here(parameter)))


def to_torch(tensor: LazyTensor, name: str, rows: slice | None = None) -> Tensor:
    """Copy rows of a checkpoint's tensor into memory of its own, in the type that the file holds.

    Args:
        tensor: What to read.
        name: How messages call it.
        rows: Which of them; all, if not given.

    Raises:
        UserError: The type is not one of float32, float16 and bfloat16.
    """
    if tensor.dtype not in _DTYPES:
        raise UserError(
            f"tensor {name} is of type {tensor.dtype}; supported are {', '.join(_DTYPES)}. "
            "Quantised checkpoints cannot be trained as they are: convert them first."
        )
    shape, buffer = tensor.shape, tensor.buffer()
    if rows is not None:
        row_bytes = tensor.nbytes // max(1, shape[0])
        buffer = buffer[rows.start * row_bytes : rows.stop * row_bytes]
        shape = (rows.stop - rows.start, *shape[1:])
    if not buffer.nbytes:
        return torch.empty(shape, dtype=_DTYPES[tensor.dtype])
    # The file is mapped read-only, which torch has no notion of: hence the bytearray, a copy.
    return torch.frombuffer(bytearray(buffer), dtype=_DTYPES[tensor.dtype]).reshape(tuple(shape))


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
    return embedding is not None and _are_equal(head, embedding)


def _are_equal(one: LazyTensor, other: LazyTensor) -> bool:
    """Compare some rows after the other, so that no whole matrix is copied."""
    if one.shape != other.shape:
        return False
    begins = range(0, one.shape[0], _ROWS_AT_ONCE)
    parts = (slice(begin, min(begin + _ROWS_AT_ONCE, one.shape[0])) for begin in begins)
    return all(
        torch.equal(to_torch(one, one.name, rows), to_torch(other, other.name, rows)) for rows in parts
    )


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
