"""Builds the optimizer, and sets its learning rate."""

import torch
from torch import nn

from tune_recipes.schema import Optim


def build_optimizer(model: nn.Module, cfg: Optim) -> torch.optim.Optimizer:
    """Return the optimizer of what requires gradients; matrices are decayed, biases and norms are not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if cfg.name == "sgd":  # its fused form knows no parameters that are split over processes
        return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.betas[0], foreach=True)
    fused = not trained[0].is_meta  # there is nothing to compute in a dry run
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
