"""How much memory a training process takes, part by part, and what to change when that is too much.

Everything is known without a tensor being filled: the model is on the meta device, where a forward pass says
what it keeps for the backward pass. Shapes: B sequences, S tokens, V vocab_size.
"""

from collections.abc import Iterator
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tune_recipes.data.loader import Loader
from tune_recipes.models.decoder import Decoder
from tune_recipes.schema import Training


class Memory(Struct, frozen=True):
    """Bytes that one of the processes takes; PyTorch itself and the data are not in it."""

    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    """Blocks that FSDP gathers for their turn: the one at work, the next one, and what is always there."""
    activations: int
    """What the forward pass keeps for the backward pass, for a micro-batch of the longest sequences."""
    logits: int
    """Logits of all targets of that micro-batch, and their gradient."""
    checkpoint: int
    """Copy that a thread writes to the disk, in the memory of the CPU."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Return the parts by name."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class Load(Struct, frozen=True):
    """What decides, beside the model, how much memory a process takes."""

    num_processes: int
    """How many processes the model is split over."""
    optimizer: str
    """`adamw` or `sgd`."""
    batch_size: int
    """Sequences of a micro-batch."""
    num_tokens: int
    """Tokens of the longest sequence."""
    num_targets: int
    """The most targets that a sequence has."""


def load_of(loader: Loader, cfg: Training, num_processes: int) -> Load:
    """Return the load of a run."""
    return Load(num_processes, cfg.optim.name, loader.batch_size, loader.longest, loader.most_targets)


def estimate_memory(model: Decoder, load: Load) -> Memory:
    """Estimate what each process takes to train a model, which is given on the meta device and whole."""
    parameters = list(model.parameters())
    gradients = _share([p for p in parameters if p.requires_grad], load.num_processes)
    optimizer = (2 if load.optimizer == "adamw" else 1) * gradients
    num_logits = load.batch_size * load.num_targets * model.config.vocab_size
    return Memory(
        parameters=_share(parameters, load.num_processes),
        gradients=gradients,
        optimizer=optimizer,
        gathered=_gathered(model) if load.num_processes > 1 else 0,
        activations=_kept_by_forward(model, load.batch_size, load.num_tokens),
        logits=2 * num_logits * parameters[0].element_size(),
        checkpoint=gradients + optimizer,
    )


def _share(parameters: list[nn.Parameter], num_processes: int) -> int:
    """Bytes of the largest part when each parameter's rows are dealt out."""
    rows = ((-(-p.shape[0] // num_processes), p[0].numel() if p.ndim > 1 else 1, p) for p in parameters)
    return sum(num_rows * row_size * p.element_size() for num_rows, row_size, p in rows)


def _gathered(model: Decoder) -> int:
    def size(modules: Iterator[nn.Module] | list[nn.Module]) -> int:
        unique = {id(p): p.nbytes for module in modules for p in module.parameters()}
        return sum(unique.values())

    blocks = list(model.model.layers)
    always = size([model.model.embed_tokens, model.model.norm, model.lm_head])
    return always + 2 * max(size([block]) for block in blocks)


def _kept_by_forward(model: Decoder, batch_size: int, num_tokens: int) -> int:
    """Bytes of the tensors that a forward pass to the last hidden state saves, each counted once."""
    owned = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned:
            kept[storage._cdata] = storage  # held on to, so that no other gets its number
        return tensor

    input_ids_BS = torch.zeros(batch_size, num_tokens, dtype=torch.int64, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), _FusedAttention():
        model.model(input_ids_BS)
    return sum(storage.nbytes() for storage in kept.values())


class _FusedAttention(TorchFunctionMode):
    """Attention as fused kernels do it; the meta device would keep every query's weights on every key."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Keeps queries, keys, values, the output and a number per query.

    Source: Dao et al., FlashAttention, section 3.1.
    """

    @staticmethod
    def forward(ctx: Any, q_BNSH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor) -> Tensor:
        out_BNSH = torch.empty_like(q_BNSH)
        log_normalizer_BNS = q_BNSH.new_empty(q_BNSH.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q_BNSH, k_BKTH, v_BKTH, out_BNSH, log_normalizer_BNS)
        return out_BNSH
