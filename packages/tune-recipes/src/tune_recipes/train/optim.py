"""Builds the optimizer and the learning rate of each step."""

import math
from collections.abc import Callable

import torch
from torch import nn

from tune_recipes.schema import Optim, Schedule


def build_optimizer(model: nn.Module, cfg: Optim) -> torch.optim.Optimizer:
    """Return the optimizer of what requires gradients; matrices are decayed, biases and norms are not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if cfg.name == "sgd":
        return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.betas[0], fused=True)
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def build_schedule(cfg: Schedule, lr: float, num_steps: int) -> Callable[[int], float]:
    """Return the learning rate of a step (counted from 1): a rise to `lr` in the warmup, then the descent.

    The first step after the warmup is at the peak, the last of `num_steps` at `min_lr`.
    """

    def lr_at(step: int) -> float:
        if step <= cfg.warmup_steps:
            return lr * step / (cfg.warmup_steps + 1)
        if cfg.name == "constant":
            return lr
        progress = (step - cfg.warmup_steps - 1) / max(1, num_steps - cfg.warmup_steps - 1)
        share = 1 - progress if cfg.name == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return cfg.min_lr + (lr - cfg.min_lr) * share

    return lr_at
