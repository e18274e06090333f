"""What a run would do, from the recipe itself: it is called with a model on the meta device, and stopped."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import torch
from msgspec import Struct

from tune_recipes.errors import TrainingFailed
from tune_recipes.runs import RunInfo, now
from tune_recipes.schema import Training
from tune_recipes.train.checkpoint import TrainState
from tune_recipes.train.distributed import World, join_world
from tune_recipes.train.memory import Memory, estimate_memory, load_of
from tune_recipes.train.run import Run, check_fit
from tune_recipes.train.schedule import plan_steps
from tune_recipes.train.sizes import megabytes


class Plan(Struct, frozen=True):
    """A run in numbers."""

    parameters: int
    trained: int
    dtype: str
    records: int
    steps: int
    records_a_step: int
    tokens_a_step: float
    """On average, without padding."""
    processes: int
    memory: Memory

    def lines(self) -> list[str]:
        """Return it as text, a label and a figure each line."""
        share = (
            "all of them trained" if self.trained == self.parameters else f"{self.trained:,} of them trained"
        )
        rows = [
            ("Model", f"{self.parameters:,} parameters in {self.dtype}, {share}"),
            ("Data", f"{self.records:,} records"),
            ("Steps", f"{self.steps:,}"),
            ("A step", f"{self.records_a_step:,} records, about {self.tokens_a_step:,.0f} tokens"),
        ]
        each = " of each process" if self.processes > 1 else ""
        memory = [(name.capitalize(), megabytes(size)) for name, size in self.memory.parts().items() if size]
        return [
            "TRAINING",
            *(f"    {label:<20}{text}" for label, text in rows),
            "",
            f"MEMORY{each}, estimated; PyTorch itself takes some hundred MB more",
            *(
                f"    {label:<20}{text:>14}"
                for label, text in [*memory, ("In all", megabytes(self.memory.total))]
            ),
        ]


class _Planned(Exception):
    def __init__(self, state: TrainState):
        super().__init__()
        self.state = state


class DryRun(Run):
    """A run that ends where the first step would begin, and leaves nothing behind."""

    def __init__(self, world: World, began: datetime):
        info = RunInfo(
            id="", recipe="", config=None, command=[], seed=None, versions={}, git_commit=None, hardware={},
            start=began.isoformat(), world_size=world.size,
        )  # fmt: skip
        super().__init__(Path(os.devnull), world, info)

    def begin(self, cfg: Training, state: TrainState) -> NoReturn:
        """End here."""
        check_fit(state.model.config, state.loader)
        raise _Planned(state)


def plan(main: Callable[..., None], cfg: Training, *, num_processes: int) -> Plan:
    """Return what a recipe's `main` would do with a Config, without a model in memory.

    Raises:
        UserError: What `main` would refuse.
    """
    with join_world() as world:
        state = planned_state(main, cfg, replace(world, size=num_processes))
    parameters, loader = list(state.model.parameters()), state.loader
    records_a_step = min(loader.step_size, loader.fingerprint.num_records)
    return Plan(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        dtype=str(parameters[0].dtype).removeprefix("torch."),
        records=loader.fingerprint.num_records,
        steps=plan_steps(cfg, loader).num_steps,
        records_a_step=records_a_step,
        tokens_a_step=loader.tokens_per_record * records_a_step,
        processes=num_processes,
        memory=estimate_memory(state.model, load_of(loader, cfg, num_processes)),
    )


def planned_state(main: Callable[..., None], cfg: Training, world: World) -> TrainState:
    """Return what a recipe's `main` would begin to train with, its model whole and on the meta device.

    Raises:
        UserError: What `main` would refuse.
    """
    pretended = replace(world, device=torch.device("meta"), mesh=None)
    try:
        main(cfg, DryRun(pretended, datetime.fromisoformat(now())))
    except _Planned as planned:
        return planned.state
    raise TrainingFailed("this recipe never calls run.begin, so there is nothing to plan from")
