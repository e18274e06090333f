"""One optimizer step: the mean loss over the target tokens of all micro-batches and processes.

Shapes: B sequences, S tokens, N target tokens.
"""

import math

import torch
from torch.nn.utils import clip_grad_norm_

from tune_recipes.data.loader import Batch
from tune_recipes.errors import TrainingFailed
from tune_recipes.losses import IGNORE_INDEX, cross_entropy_sum
from tune_recipes.schema import Training
from tune_recipes.train.checkpoint import TrainState
from tune_recipes.train.distributed import World
from tune_recipes.train.optim import set_lr


def train_step(cfg: Training, state: TrainState, world: World, *, lr: float) -> dict[str, float]:
    """Take one step and return its figures.

    Args:
        cfg: Says how many micro-batches make a step, and how long a gradient may be.
        state: What the step changes.
        world: The processes that take the step together.
        lr: Learning rate of this step.

    Returns:
        `loss`: mean over the step's target tokens, in nats; `lr`; `grad_norm`: before clipping; `tokens`:
        input tokens of all processes, padding included; `target_tokens`.

    Raises:
        TrainingFailed: The loss or its gradient is no finite number; the weights are as before the step.
    """
    batches = [next(state.loader).to(world.device) for _ in range(cfg.grad_accum_steps)]
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
    grad_norm = clip_grad_norm_(trained, cfg.optim.max_grad_norm)
    loss = world.sum(loss_sum).item() / num_targets
    if not (math.isfinite(loss) and math.isfinite(grad_norm.item())):
        raise TrainingFailed(_diverged(state.step + 1, loss, grad_norm.item(), lr, batches))
    set_lr(state.optimizer, lr)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return {
        "loss": loss,
        "lr": lr,
        "grad_norm": grad_norm.item(),
        "tokens": num_tokens,
        "target_tokens": num_targets,
    }


def _diverged(step: int, loss: float, grad_norm: float, lr: float, batches: list[Batch]) -> str:
    records = [record for batch in batches for record in batch.records]
    shown = ", ".join(records[:4]) + (", ..." if len(records) > 4 else "")
    return (
        f"step {step}: the loss is {loss:.4g} and its gradient {grad_norm:.4g}; training has diverged\n"
        f"  try a lower optim.lr (now {lr:.2e}) or more schedule.warmup_steps, or look at its data: {shown}"
    )
