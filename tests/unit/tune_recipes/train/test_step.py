"""A step against the same step written down plainly with torch."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as all the world calls it
from torch.nn.utils import clip_grad_norm_

from tune_recipes.losses import IGNORE_INDEX
from tune_recipes.schema import Optim
from tune_recipes.train.checkpoint import TrainState
from tune_recipes.train.optim import build_optimizer
from tune_recipes.train.step import train_step

# Plain gradient descent: the weights differ as little as the gradients do.
DESCENT = Optim(name="sgd", betas=(0.0, 0.0), weight_decay=0.0, max_grad_norm=float("inf"))


@pytest.fixture
def make_state(make_model, make_loader, world):
    def make(cfg):
        model = make_model(world.device)
        return TrainState(model, build_optimizer(model, cfg.optim), make_loader(cfg))

    return make


def plain_loss(model, batch, device):
    """Return the mean loss over the targets of a batch."""
    batch = batch.to(device)
    logits_BSV = model(batch.input_ids)
    return F.cross_entropy(logits_BSV.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX)


def assert_same_weights(model, other):
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, other.state_dict()[name], rtol=0, atol=1e-6, msg=name)


def test_accumulated_step_equals_a_step_on_all_sequences(make_config, make_state, make_loader, world):
    parts = make_config(batch_size=2, grad_accum_steps=2, optim=DESCENT)
    whole = make_config(batch_size=4, optim=DESCENT)
    first, second = next(make_loader(parts))
    assert first.num_target_tokens != second.num_target_tokens  # or a mean of means would do too
    accumulated, at_once = make_state(parts), make_state(whole)
    figures = train_step(parts, accumulated, world, lr=0.5)
    expected = train_step(whole, at_once, world, lr=0.5)
    assert figures["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert figures["grad_norm"] == pytest.approx(expected["grad_norm"], abs=1e-5)
    assert figures["target_tokens"] == expected["target_tokens"]
    assert_same_weights(accumulated.model, at_once.model)


def test_steps_with_fused_adamw_equal_steps_with_plain_adamw(
    make_config, make_state, make_loader, make_model, world
):
    cfg = make_config(batch_size=3, optim=Optim(weight_decay=0.1, betas=(0.8, 0.9), max_grad_norm=0.5))
    state, loader, model = make_state(cfg), make_loader(cfg), make_model(world.device)
    parameters = dict(model.named_parameters())
    groups = [
        {"params": [p for n, p in parameters.items() if "norm" not in n], "weight_decay": 0.1},
        {"params": [p for n, p in parameters.items() if "norm" in n], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(groups, betas=(0.8, 0.9), eps=1e-8, foreach=False, fused=False)
    for lr in (1e-3, 1e-2, 3e-3):
        (batch,) = next(loader)
        loss = plain_loss(model, batch, world.device)
        loss.backward()
        clip_grad_norm_(model.parameters(), 0.5)
        for group in plain.param_groups:
            group["lr"] = lr
        plain.step()
        plain.zero_grad()
        figures = train_step(cfg, state, world, lr=lr)
        assert figures["loss"] == pytest.approx(loss.item(), abs=1e-5)
        assert figures["lr"] == lr
        assert_same_weights(state.model, model)
    assert state.step == 3


@pytest.mark.parametrize("max_grad_norm", [0.01, 1e6, float("inf")])
def test_gradients_are_clipped_as_torch_clips_and_the_norm_before_is_reported(
    make_config, make_state, make_loader, make_model, world, max_grad_norm
):
    options = Optim(name="sgd", betas=(0.0, 0.0), weight_decay=0.0, max_grad_norm=max_grad_norm)
    cfg = make_config(batch_size=4, optim=options)
    state, model = make_state(cfg), make_model(world.device)
    (batch,) = next(make_loader(cfg))
    plain_loss(model, batch, world.device).backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.cat(grads)).item()
    assert 0.01 < norm < 1e6
    clip_grad_norm_(model.parameters(), max_grad_norm)
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    figures = train_step(cfg, state, world, lr=0.5)
    assert figures["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert_same_weights(state.model, model)


def test_gradients_of_a_step_are_gone_before_the_next(make_config, make_state, world):
    cfg = make_config()
    state = make_state(cfg)
    train_step(cfg, state, world, lr=0.1)
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_frozen_parameters_stay_and_do_not_count_in_the_norm(make_config, make_state, make_model, world):
    cfg = make_config(optim=DESCENT)
    state = make_state(cfg)
    state.model.model.embed_tokens.requires_grad_(False)
    state.optimizer = build_optimizer(state.model, cfg.optim)
    everything = train_step(cfg, make_state(cfg), world, lr=0.5)
    figures = train_step(cfg, state, world, lr=0.5)
    before = make_model(world.device)
    assert torch.equal(state.model.model.embed_tokens.weight, before.model.embed_tokens.weight)
    assert not torch.equal(state.model.lm_head.weight, before.lm_head.weight)
    assert figures["loss"] == everything["loss"]
    assert figures["grad_norm"] < everything["grad_norm"]


def test_tokens_count_padding_and_target_tokens_do_not(make_config, make_state, make_loader, world):
    cfg = make_config(batch_size=2, grad_accum_steps=2)
    alone = make_config(batch_size=1)
    rows = make_loader(alone)
    lengths, num_targets = [], 0
    for _ in range(4):
        (row,) = next(rows)
        lengths.append(row.input_ids.shape[1])
        num_targets += int((row.targets != IGNORE_INDEX).sum())
    figures = train_step(cfg, make_state(cfg), world, lr=0.1)
    assert figures["tokens"] == 2 * max(lengths[:2]) + 2 * max(lengths[2:]) > sum(lengths)
    assert figures["target_tokens"] == num_targets < sum(lengths)
