"""Fine-tune every weight of a model, or train a small one from scratch.

tune run full_finetune --config demo_full_finetune --nproc 2
python full_finetune.py --config alpaca_smollm2_135m_full_finetune optim.lr=1e-5
"""

from typing import Literal

import torch

from tune_recipes.catalog import local_path
from tune_recipes.models.config import read_model_config
from tune_recipes.models.export import save_model
from tune_recipes.models.load import allocate_, init_weights_, load_weights_, meta_model
from tune_recipes.runner import start
from tune_recipes.schema import Shape, Training
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train import Run, TrainState, batches_of, build_optimizer, plan_steps, train_step
from tune_recipes.train.distributed import shard
from tune_recipes.train.precision import resolve_dtype
from tune_recipes.train.setup import model_config


class Config(Training, frozen=True, kw_only=True):
    """The options of this recipe: those that every training recipe has, and where the weights come from."""

    init: Literal["checkpoint", "random"] = "checkpoint"
    """Start from the folder's weights, or from random ones."""
    shape: Shape | None = None
    """With init=random: the size of the model, instead of the folder's config.json."""

    def __post_init__(self):
        if self.shape is not None and self.init != "random":
            raise ValueError(
                "shape is for a model that starts from scratch: add init=random, or drop it: ~shape"
            )


def main(cfg: Config, run: Run) -> None:
    """Build everything, go on from the last checkpoint if there is one, train, and export the whole model."""
    world = run.world
    torch.manual_seed(cfg.seed + world.rank)
    folder = local_path(cfg.model)
    tokenizer = Tokenizer(folder)
    loader = batches_of(cfg, run, tokenizer)
    shape = model_config(cfg.shape, tokenizer) if cfg.shape else read_model_config(folder)
    model = meta_model(shape, dtype=resolve_dtype(cfg.dtype, world.device))
    shard(model, world.mesh)  # before it takes memory, so that no process holds it whole
    allocate_(model, world.device)
    if cfg.init == "random":
        init_weights_(model, seed=cfg.seed)
    else:
        load_weights_(model, folder)
    state = TrainState(model, build_optimizer(model, cfg.optim), loader)
    run.begin(cfg, state)
    train(cfg, run, state)
    save_model(model, run.final, config=model.config, source=folder, world=world)
    run.finish(cfg.data.format)


def train(cfg: Config, run: Run, state: TrainState) -> None:
    """Take the steps that are left."""
    plan = plan_steps(cfg, state.loader)
    for step in run.steps(state.step, plan.num_steps):
        metrics = train_step(cfg, state, run.world, lr=plan.lr(step))
        run.after_step(cfg, state, metrics)


if __name__ == "__main__":
    start(main, Config)
