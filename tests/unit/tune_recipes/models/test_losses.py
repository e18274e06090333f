"""The summed loss, against torch's own."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tune_recipes import losses
from tune_recipes.losses import IGNORE_INDEX, cross_entropy_sum


@pytest.fixture(params=[1, 7, 10**6], ids=lambda rows: f"{rows} rows a chunk")
def chunked(request, monkeypatch):
    monkeypatch.setattr(losses, "_CHUNK_BYTES", request.param * 4 * 50)


def make(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(20, 50, generator=generator) * 5).to(dtype).requires_grad_()
    targets = torch.randint(50, (20,), generator=generator)
    targets[3:9] = IGNORE_INDEX
    return logits, targets


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_equal_torchs_in_float32(dtype):
    logits, targets = make(dtype)
    (cross_entropy_sum(logits, targets) / 17).backward()
    ours = logits.grad
    reference = logits.detach().float().requires_grad_()
    expected = F.cross_entropy(reference, targets, reduction="sum")
    (expected / 17).backward()

    assert ours is not None and ours.dtype == dtype and reference.grad is not None
    torch.testing.assert_close(cross_entropy_sum(logits, targets), expected)
    torch.testing.assert_close(ours, reference.grad.to(dtype))


def test_huge_logits_stay_finite():
    logits, targets = make()
    logits = (logits.detach() * 1e4).requires_grad_()
    loss = cross_entropy_sum(logits, targets)
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_without_targets_the_loss_is_zero_and_so_is_the_gradient():
    logits, targets = make()
    for some_logits, some_targets in (
        (logits[:0], targets[:0]),
        (logits, torch.full_like(targets, IGNORE_INDEX)),
    ):
        logits.grad = None
        loss = cross_entropy_sum(some_logits, some_targets)
        loss.backward()
        assert loss == 0
        assert logits.grad is not None and not logits.grad.any()
