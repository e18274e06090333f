"""One optimizer step: the mean loss over the target tokens of all micro-batches and processes.

Shapes: B sequences, S tokens, N target tokens.
"""

import math
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from tune_recipes.losses import IGNORE_INDEX, cross_entropy_sum
from tune_recipes.models.sharded import whole
from tune_recipes.schema import Training
from tune_recipes.train.checkpoint import TrainState
from tune_recipes.train.distributed import World
from tune_recipes.train.optim import set_lr


def train_step(cfg: Training, state: TrainState, world: World, *, lr: float) -> dict[str, Any]:
    """Take one step and return its figures.

    A step whose loss or gradient is no finite number leaves the weights as they are.

    Args:
        cfg: Says how long a gradient may be.
        state: What the step changes.
        world: The processes that take the step together.
        lr: Learning rate of this step.

    Returns:
        `loss`: mean over the step's target tokens, in nats; `lr`; `grad_norm`: before clipping; `tokens`:
        input tokens of all processes, padding included; `target_tokens`. If the weights were left as they
        are, also `records`: where each process's records stand in the data file.
    """
    batches = [batch.to(world.device) for batch in next(state.loader)]
    counts = torch.tensor([[b.num_target_tokens, b.input_ids.numel()] for b in batches], device=world.device)
    num_targets, num_tokens = world.sum(counts.sum(0)).tolist()
    loss_sum = torch.zeros((), device=world.device)
    for batch in batches:
        keep_BS = batch.targets != IGNORE_INDEX
        logits_NV = state.model(batch.input_ids, keep_BS=keep_BS)
        batch_loss = cross_entropy_sum(logits_NV, batch.targets[keep_BS])
        # x world.size: sharding averages gradients over processes; we want the mean over target tokens
        (batch_loss * (world.size / num_targets)).backward()
        loss_sum += batch_loss.detach()
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    grad_norm = whole(clip_grad_norm_(trained, cfg.optim.max_grad_norm)).item()
    loss = world.sum(loss_sum).item() / num_targets
    figures = {
        "loss": loss,
        "lr": lr,
        "grad_norm": grad_norm,
        "tokens": num_tokens,
        "target_tokens": num_targets,
    }
    if math.isfinite(loss) and math.isfinite(grad_norm):
        set_lr(state.optimizer, lr)
        state.optimizer.step()
    else:  # the same in every process, as both figures are
        figures["records"] = world.gather([record for batch in batches for record in batch.records])
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return figures
