"""Fine-tune every weight of a model, or train a small one from scratch.

tune run full_finetune --config demo_full_finetune
python full_finetune.py --config alpaca_smollm2_135m_full_finetune optim.lr=1e-5
"""

from typing import Literal

import torch

from tune_recipes.catalog import local_path
from tune_recipes.data.loader import build_loader
from tune_recipes.models.config import read_model_config
from tune_recipes.models.export import save_model
from tune_recipes.runner import start
from tune_recipes.schema import Shape, Training
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train.checkpoint import TrainState, load_latest, save_checkpoint
from tune_recipes.train.distributed import World, join_world, shard
from tune_recipes.train.optim import build_optimizer, build_schedule
from tune_recipes.train.precision import resolve_dtype
from tune_recipes.train.run import Run
from tune_recipes.train.setup import count_steps, starting_model
from tune_recipes.train.step import train_step


class Config(Training, frozen=True, kw_only=True):
    """The options of this recipe: those that every training recipe has, and where the weights come from."""

    init: Literal["checkpoint", "random"] = "checkpoint"
    """Start from the folder's weights, or from random ones."""
    shape: Shape | None = None
    """With init=random: the size of the model, instead of the folder's config.json."""

    def __post_init__(self):
        if self.shape is not None and self.init != "random":
            raise ValueError(
                "shape is for a model that starts from scratch: add init=random, or leave it out"
            )


def main(cfg: Config, run: Run) -> None:
    """Build everything, go on from the last checkpoint if there is one, train, and export."""
    torch.manual_seed(cfg.seed)
    folder = local_path(cfg.model)
    with join_world() as world:
        tokenizer = Tokenizer(folder)
        loader = build_loader(
            cfg.data,
            tokenizer,
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            rank=world.rank,
            world_size=world.size,
        )
        model = starting_model(
            folder if cfg.init == "checkpoint" else cfg.shape or read_model_config(folder),
            tokenizer,
            seed=cfg.seed,
            dtype=resolve_dtype(cfg.dtype, world.device),
            device=world.device,
        )
        shard(model, world.mesh)
        state = TrainState(model, build_optimizer(model, cfg.optim), loader)
        run.describe(model, loader)
        load_latest(run.checkpoints, state)
        train(cfg, run, state, world)
        save_model(model, run.final, config=model.config, source=folder)
        run.finish(cfg.data.format)


def train(cfg: Config, run: Run, state: TrainState, world: World) -> None:
    """Take the steps that are left."""
    num_steps = count_steps(cfg, state.loader)
    lr_at = build_schedule(cfg.schedule, cfg.optim.lr, num_steps)
    for step in run.steps(state.step, num_steps):
        metrics = train_step(
            state,
            world,
            lr=lr_at(step),
            grad_accum_steps=cfg.grad_accum_steps,
            max_grad_norm=cfg.optim.max_grad_norm,
        )
        run.log(step, metrics)
        if run.must_save(step, cfg.checkpoint.save_every):
            save_checkpoint(run.checkpoints, state, keep_last=cfg.checkpoint.keep_last)
        run.stop_if_asked(step)


if __name__ == "__main__":
    start(main, Config)
