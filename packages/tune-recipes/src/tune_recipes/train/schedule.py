"""How many steps there will be, and the learning rate of each."""

import math
from dataclasses import dataclass

from tune_recipes.data.loader import Loader
from tune_recipes.schema import Schedule, Training


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run."""

    num_steps: int
    """How many there are."""
    schedule: Schedule
    """Shape of the descent, warmup, and the rate that it descends towards."""
    peak_lr: float
    """Rate of the first step after the warmup."""

    def lr(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1: a rise to the peak, then the descent.

        These are the rates of transformers' schedulers with `warmup_steps + 1` of `num_steps + 1` steps, less
        their first, whose rate is 0: no step is wasted. Step `warmup_steps + 1` is at the peak. The last has
        one step of the descent still before it: `min_lr` is what a step after it would have.

        Source: `transformers.get_cosine_schedule_with_warmup`, and its `linear` and `constant` sisters.
        """
        warmup = self.schedule.warmup_steps
        if step <= warmup:
            return self.peak_lr * step / (warmup + 1)
        if self.schedule.name == "constant":
            return self.peak_lr
        progress = (step - warmup - 1) / max(1, self.num_steps - warmup)
        share = 1 - progress if self.schedule.name == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.schedule.min_lr + (self.peak_lr - self.schedule.min_lr) * share


def plan_steps(cfg: Training, loader: Loader) -> StepPlan:
    """Return the steps of a run: those of its epochs, at most `max_steps`."""
    in_epochs = cfg.epochs * len(loader)
    return StepPlan(min(in_epochs, cfg.max_steps or in_epochs), cfg.schedule, cfg.optim.lr)
