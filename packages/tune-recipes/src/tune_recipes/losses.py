"""Losses, summed: the caller divides by the number of target tokens of the whole step.

Shapes: N positions, V vocab_size, C positions of a chunk.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100
"""Target of a position that has none."""

_CHUNK_BYTES = 64 * 2**20  # of float32 logits; large enough to keep a GPU busy


def cross_entropy_sum(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Sum the negative log-likelihoods of the targets.

    Works through chunks of positions in float32 and makes the gradient from the logits again. So only a chunk
    is held in float32 besides the logits and their gradient; `F.cross_entropy` holds up to three such copies.

    Args:
        logits_NV: (N, V), any floating type.
        targets_N: (N,) int64; positions with `IGNORE_INDEX` count nothing.

    Returns:
        The sum over the positions, a float32 scalar; 0 without any.
    """
    return cast(Tensor, _CrossEntropySum.apply(logits_NV, targets_N))


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        total = torch.zeros((), device=logits_NV.device)
        log_normalizers = []
        for logits_CV, targets_C in _chunks(logits_NV, targets_N):
            logits_CV = logits_CV.float()
            log_normalizer_C = logits_CV.logsumexp(-1)
            target_logits_C = logits_CV.gather(-1, targets_C.clamp(min=0)[:, None])[:, 0]
            counted_C = targets_C != IGNORE_INDEX
            total += ((log_normalizer_C - target_logits_C) * counted_C).sum()
            log_normalizers.append(log_normalizer_C)
        ctx.save_for_backward(logits_NV, targets_N, torch.cat(log_normalizers))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Source: the derivative of -log softmax(x)[t] by x is softmax(x) - onehot(t)."""
        logits_NV, targets_N, log_normalizer_N = ctx.saved_tensors
        grad_NV = torch.empty_like(logits_NV)
        chunks = _chunks(logits_NV, targets_N, log_normalizer_N, grad_NV)
        for logits_CV, targets_C, log_normalizer_C, grad_CV in chunks:
            probs_CV = (logits_CV.float() - log_normalizer_C[:, None]).exp_()
            onehot_C1 = targets_C.clamp(min=0)[:, None]
            probs_CV.scatter_add_(-1, onehot_C1, -torch.ones_like(onehot_C1, dtype=probs_CV.dtype))
            grad_CV.copy_(probs_CV.mul_((targets_C != IGNORE_INDEX)[:, None] * grads[0]))
        return grad_NV, None


def _chunks(logits_NV: Tensor, *others: Tensor):
    """Cut all tensors alike along N."""
    size = max(1, _CHUNK_BYTES // (4 * logits_NV.shape[-1]))
    return zip(*(tensor.split(size) for tensor in (logits_NV, *others)), strict=True)
