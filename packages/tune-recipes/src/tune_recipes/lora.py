"""LoRA: small trainable matrices beside frozen linear layers, kept as PEFT keeps them.

Shapes: B batch and all further leading dimensions, I in_features, O out_features, R rank.

Source: Hu et al., LoRA, section 4.1: h = W x + (alpha / rank) B A x.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F  # noqa: N812 - as all the world calls it
from torch import Tensor, nn

from tune_recipes.errors import UserError
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.peft_folder import PREFIX, read_adapter, write_adapter
from tune_recipes.models.sharded import local_part, rows_here, whole
from tune_recipes.schema import Lora

if TYPE_CHECKING:
    from tune_recipes.train.distributed import World


class LoRALinear(nn.Linear):
    """A linear layer whose weight is frozen, and a trained update of low rank.

    Its own parameters keep their names; `lora_A.weight` (R, I) and `lora_B.weight` (O, R) stand beside them,
    in float32 whatever the base is, as in PEFT: steps of a small learning rate are lost in bfloat16.
    """

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float, dropout: float):
        """Take over the parameters of `base`; the update is not initialised yet."""
        bias, device = base.bias is not None, base.weight.device
        super().__init__(base.in_features, base.out_features, bias, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank
        self.dropout = nn.Dropout(dropout)
        on_meta = {"bias": False, "device": "meta", "dtype": torch.float32}
        self.lora_A = nn.Linear(base.in_features, rank, **on_meta).to_empty(device=device)
        self.lora_B = nn.Linear(rank, base.out_features, **on_meta).to_empty(device=device)

    def forward(self, input: Tensor) -> Tensor:
        """Return W x + b + (alpha / rank) B A dropout(x), in the type of the base."""
        out_BO = F.linear(input, self.weight, self.bias)
        update_BO = self.lora_B(self.lora_A(self.dropout(input.to(self.lora_A.weight.dtype))))
        return (out_BO + update_BO * self.scaling).to(out_BO.dtype)

    def merged_weight(self) -> Tensor:
        """Return the rows that are here of W + (alpha / rank) B A, (O, I), in float32 and rounded once."""
        update_OI = local_part(self.lora_B.weight).float() @ whole(self.lora_A.weight).float()
        return (local_part(self.weight).float() + update_OI * self.scaling).to(self.weight.dtype)


def add_lora(
    model: Decoder,
    *,
    targets: Sequence[str] = Lora().targets,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    seed: int = 0,
) -> None:
    """Freeze the model and put an update of rank `rank` beside each targeted linear layer, in place.

    The updates start at zero: A uniform, B zero, as in PEFT.

    Args:
        model: The model.
        targets: Names of linear layers: the last part of their path (`q_proj`), or more of it.
        rank: Rank of the updates.
        alpha: The updates are scaled by `alpha / rank`.
        dropout: Share of an update's inputs dropped in training.
        seed: What A is drawn from.

    Raises:
        UserError: The model has no linear layer of a name, or only one that cannot be adapted.
    """
    layers = _adaptable(model)
    chosen: dict[str, nn.Linear] = {}
    for target in targets:
        matching = {path: layer for path, layer in layers.items() if f".{path}".endswith(f".{target}")}
        if not matching:
            there = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in layers))
            raise UserError(
                f"lora.targets: the model has no linear layer {target!r} to adapt; there are: {there}"
            )
        chosen |= matching
    if not chosen:
        raise UserError("lora.targets is empty: name at least one linear layer, such as q_proj")
    _swap_in(model, dict.fromkeys(chosen, (rank, alpha)), dropout)
    init_lora_(model, seed=seed)


@torch.no_grad()
def init_lora_(model: nn.Module, *, seed: int) -> None:
    """Set all updates to zero: A uniform in +-1/sqrt(in_features), B zero.

    Source: `nn.init.kaiming_uniform_(A, a=sqrt(5))`, as PEFT's `reset_lora_parameters` has it.
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device gets the same numbers
    for _, layer in lora_layers(model):
        a_RI = layer.lora_A.weight
        drawn_RI = torch.empty(a_RI.shape)
        nn.init.kaiming_uniform_(drawn_RI, a=math.sqrt(5), generator=generator)
        local_part(a_RI).copy_(drawn_RI[rows_here(a_RI)])
        local_part(layer.lora_B.weight).zero_()


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Go through the adapted layers and their paths."""
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield path, module


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of the updates, under the model's own names."""
    return {
        f"{path}.{part}.weight": getattr(layer, part).weight
        for path, layer in lora_layers(model)
        for part in ("lora_A", "lora_B")
    }


def save_adapter(model: Decoder, folder: Path | str, *, base: str, world: "World | None" = None) -> None:
    """Write the updates as a PEFT folder.

    Args:
        model: A model with adapted layers of one rank and alpha.
        folder: Where to. It appears when it is whole; what stood there before is replaced.
        base: Name or path of the model that was adapted, for those who load the folder.
        world: The processes that the model is split over; all of them must call it, and the first one writes.
    """
    layers = dict(lora_layers(model))
    some = next(iter(layers.values()))
    config = {
        "base_model_name_or_path": base,
        "r": some.rank,
        "lora_alpha": some.alpha,
        "lora_dropout": some.dropout.p,
        "target_modules": _short_names(list(layers), list(_adaptable(model))),
    }
    tensors = {name: whole(tensor) for name, tensor in lora_state_dict(model).items()}
    if world is None:
        write_adapter(Path(folder), config, tensors)
    else:
        world.from_first(lambda: write_adapter(Path(folder), config, tensors))


def load_adapter(model: Decoder, folder: Path | str) -> None:
    """Freeze the model and put a PEFT folder's updates beside its linear layers, in place.

    Which layers are adapted is read from the names of the stored tensors: no pattern needs interpretation.

    Raises:
        UserError: The folder holds no adapter, one that does not fit the model, or one that is no plain LoRA.
    """
    config, tensors = read_adapter(Path(folder))
    _check_fit(model, folder, config["r"], tensors)
    paths = dict.fromkeys(_path_and_part(name)[0] for name in tensors)  # keeps their order
    _swap_in(
        model,
        dict.fromkeys(paths, (config["r"], config["lora_alpha"])),
        dropout=config.get("lora_dropout") or 0.0,
    )
    with torch.no_grad():
        for name, parameter in lora_state_dict(model).items():
            parameter.copy_(tensors[name])


@torch.no_grad()
def merge_lora_(model: Decoder) -> None:
    """Fold the updates into the weights and put plain linear layers back in place.

    Raises:
        UserError: There are no updates, or all of them are zero: the merged model would be the base again.
    """
    layers = dict(lora_layers(model))
    if not any(
        whole(layer.lora_B.weight).any() and whole(layer.lora_A.weight).any() for layer in layers.values()
    ):
        raise UserError("the adapter changes nothing: all its updates are zero. Was it trained?")
    for path, layer in layers.items():
        local_part(layer.weight).copy_(layer.merged_weight())
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        plain.weight, plain.bias = layer.weight, layer.bias
        model.set_submodule(path, plain)


def _adaptable(model: Decoder) -> dict[str, nn.Linear]:
    """Find the plain linear layers, except a tied head: its update would change the embedding too."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not isinstance(module, LoRALinear)
        and not path.endswith((".lora_A", ".lora_B"))
        and not (path == "lm_head" and model.config.tie_word_embeddings)
    }


def _swap_in(model: Decoder, shapes: Mapping[str, tuple[int, float]], dropout: float) -> None:
    """Freeze the model and replace each named layer by one with an update of (rank, alpha)."""
    assert not any(lora_layers(model)), "the model has an adapter already"
    model.requires_grad_(False)
    for path, (rank, alpha) in shapes.items():
        base = cast(nn.Linear, model.get_submodule(path))
        model.set_submodule(path, LoRALinear(base, rank=rank, alpha=alpha, dropout=dropout))


def _short_names(adapted: Iterable[str], others: Iterable[str]) -> list[str]:
    """Name the adapted layers by the last part of their path, unless that would name other layers too."""
    taken = {path.rpartition(".")[2] for path in others}
    return sorted({path if (last := path.rpartition(".")[2]) in taken else last for path in adapted})


def _check_fit(model: Decoder, folder: Path | str, rank: int, tensors: Mapping[str, Tensor]) -> None:
    """Refuse stored updates that this model has no layers for."""
    layers = _adaptable(model)
    for name, tensor in tensors.items():
        path, part = _path_and_part(name)
        if path not in layers:
            raise UserError(f"{folder}: the adapter's tensor {PREFIX}{name} has no place in this model")
        if part == "base_layer":
            if not torch.equal(tensor.to(layers[path].weight), layers[path].weight):
                raise UserError(f"{folder}: the adapter was made for a model whose {path}.weight is another")
            continue
        expected = (rank, layers[path].in_features) if part == "lora_A" else (layers[path].out_features, rank)
        if tuple(tensor.shape) != expected:
            raise UserError(
                f"{folder}: the adapter's tensor {PREFIX}{name} has shape {list(tensor.shape)}, but this "
                f"model and rank {rank} ask for {list(expected)}. Is it an adapter of another model?"
            )
        other = f"{path}.{'lora_B' if part == 'lora_A' else 'lora_A'}.weight"
        if other not in tensors:
            raise UserError(f"{folder}: the adapter's tensor {PREFIX}{other} is missing")


def _path_and_part(name: str) -> tuple[str, str]:
    """Split `model.layers.0.mlp.up_proj.lora_A.weight` into the path of the layer and `lora_A`."""
    path, _, part = name.removesuffix(".weight").rpartition(".")
    return path, part
