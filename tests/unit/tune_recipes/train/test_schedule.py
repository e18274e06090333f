"""The learning rate of every step against transformers' schedulers, and the number of steps."""

import math

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from tune_recipes.schema import Optim, Schedule
from tune_recipes.train.schedule import StepPlan, plan_steps

PEAK = 3e-3
SIZES = [(1, 0), (2, 0), (20, 0), (20, 1), (20, 5), (20, 19), (20, 20), (6, 9)]
"""Steps and, of these, warmup."""


def rates(num_steps, *, peak=PEAK, **schedule):
    plan = StepPlan(num_steps, Schedule(**schedule), peak)
    return [plan.lr(step) for step in range(1, num_steps + 1)]


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def rates_of(scheduler, count):
    """Return the rates that a scheduler of transformers sets, the first one included."""
    found = []
    for _ in range(count):
        found += scheduler.get_last_lr()
        scheduler.optimizer.step()
        scheduler.step()
    return found


def reference(name, warmup, num_steps):
    """Build transformers' scheduler of a name."""
    if name == "constant":
        return get_constant_schedule_with_warmup(optimizer(), warmup)
    build = {"cosine": get_cosine_schedule_with_warmup, "linear": get_linear_schedule_with_warmup}[name]
    return build(optimizer(), warmup, num_steps)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("num_steps", "warmup"), SIZES)
def test_rates_are_those_of_transformers_without_its_first_step_at_zero(name, num_steps, warmup):
    expected = rates_of(reference(name, warmup + 1, num_steps + 1), num_steps + 1)
    assert expected[0] == 0
    assert rates(num_steps, name=name, warmup_steps=warmup) == pytest.approx(expected[1:], rel=1e-12)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("num_steps", "warmup"), SIZES)
def test_after_the_warmup_rates_are_those_of_transformers_with_the_same_numbers(name, num_steps, warmup):
    expected = rates_of(reference(name, warmup, num_steps), num_steps)
    ours = rates(num_steps, name=name, warmup_steps=warmup)
    assert ours[warmup:] == pytest.approx(expected[warmup:], rel=1e-12)


@pytest.mark.parametrize(("num_steps", "warmup"), SIZES)
def test_cosine_descends_towards_min_lr_as_in_transformers(num_steps, warmup):
    scheduler = get_cosine_with_min_lr_schedule_with_warmup(optimizer(), warmup, num_steps, min_lr=1e-3)
    ours = rates(num_steps, warmup_steps=warmup, min_lr=1e-3)
    assert ours[warmup:] == pytest.approx(rates_of(scheduler, num_steps)[warmup:], rel=1e-12)


def test_linear_descends_towards_min_lr_in_equal_parts():
    assert rates(4, peak=5.0, name="linear", min_lr=1.0) == pytest.approx([5, 4, 3, 2])


def test_constant_has_no_min_lr():
    assert rates(3, name="constant", min_lr=1e-3) == [PEAK] * 3


def test_warmup_rises_in_equal_parts_to_the_peak_in_the_step_after_it():
    assert rates(4, peak=1.0, name="linear", warmup_steps=3) == pytest.approx([0.25, 0.5, 0.75, 1])


def test_run_shorter_than_its_warmup_only_rises():
    assert rates(3, peak=1.0, warmup_steps=9) == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("num_steps", "warmup"), SIZES)
def test_no_step_is_wasted(name, num_steps, warmup):
    assert min(rates(num_steps, name=name, warmup_steps=warmup)) > 1e-3 * PEAK


def test_last_step_of_cosine_is_one_step_before_the_end_of_the_descent():
    assert rates(10, peak=1.0)[-1] == pytest.approx((1 + math.cos(0.9 * math.pi)) / 2)


@pytest.mark.parametrize(
    ("options", "num_steps"),
    [
        ({"batch_size": 2}, 3),
        ({"batch_size": 4}, 2),  # the second of them has the two records that are left
        ({"batch_size": 2, "epochs": 3}, 9),
        ({"batch_size": 2, "grad_accum_steps": 2}, 2),  # as with batch_size=4
        ({"batch_size": 2, "grad_accum_steps": 2, "epochs": 2}, 4),
        ({"batch_size": 6, "grad_accum_steps": 4}, 1),  # all there are
        ({"batch_size": 2, "epochs": 3, "max_steps": 4}, 4),
        ({"batch_size": 2, "epochs": 3, "max_steps": 100}, 9),
    ],
)
def test_steps_are_those_of_the_epochs_and_at_most_max_steps(make_config, make_loader, options, num_steps):
    cfg = make_config(**options)
    assert plan_steps(cfg, make_loader(cfg)).num_steps == num_steps


def test_plan_has_the_rate_and_the_schedule_of_the_config(make_config, make_loader):
    cfg = make_config(optim=Optim(lr=0.5), schedule=Schedule(name="linear", warmup_steps=1))
    plan = plan_steps(cfg, make_loader(cfg))
    assert [plan.lr(step) for step in (1, 2, 3)] == pytest.approx([0.25, 0.5, 0.25])
