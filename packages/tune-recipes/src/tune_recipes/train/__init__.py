"""What the training recipes call: data, optimizer, step, run folder, checkpoints."""

from tune_recipes.train.checkpoint import TrainState
from tune_recipes.train.optim import build_optimizer
from tune_recipes.train.run import Run
from tune_recipes.train.schedule import plan_steps
from tune_recipes.train.setup import batches_of
from tune_recipes.train.step import train_step

__all__ = ["Run", "TrainState", "batches_of", "build_optimizer", "plan_steps", "train_step"]
