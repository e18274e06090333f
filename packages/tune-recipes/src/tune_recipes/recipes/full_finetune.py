"""Fine-tune every weight of a model, or train a small one from scratch.

tune run full_finetune --config demo_full_finetune
python full_finetune.py --config alpaca_smollm2_135m_full_finetune optim.lr=1e-5
"""

from typing import Literal

import torch

from tune_recipes.catalog import local_path
from tune_recipes.models.config import read_model_config
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.export import save_model
from tune_recipes.models.load import load_model
from tune_recipes.runner import start
from tune_recipes.schema import Shape, Training
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train import Run, TrainState, batches_of, build_optimizer, plan_steps, train_step
from tune_recipes.train.distributed import World, join_world, shard
from tune_recipes.train.precision import resolve_dtype
from tune_recipes.train.setup import model_from_scratch


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
    torch.manual_seed(cfg.seed)
    folder = local_path(cfg.model)
    with join_world() as world:
        tokenizer = Tokenizer(folder)
        loader = batches_of(cfg, run, tokenizer, world)
        model = starting_model(cfg, tokenizer, world)
        shard(model, world.mesh)
        state = TrainState(model, build_optimizer(model, cfg.optim), loader)
        run.begin(state)
        train(cfg, run, state, world)
        save_model(model, run.final, config=model.config, source=folder)
        run.finish(cfg.data.format)


def starting_model(cfg: Config, tokenizer: Tokenizer, world: World) -> Decoder:
    """Return the checkpoint's model, or one of the wished or the checkpoint's shape with random weights."""
    folder = local_path(cfg.model)
    dtype = resolve_dtype(cfg.dtype, world.device)
    if cfg.init == "checkpoint":
        return load_model(folder, dtype=dtype, device=world.device)
    shape = cfg.shape or read_model_config(folder)
    return model_from_scratch(shape, tokenizer, seed=cfg.seed, dtype=dtype, device=world.device)


def train(cfg: Config, run: Run, state: TrainState, world: World) -> None:
    """Take the steps that are left."""
    plan = plan_steps(cfg, state.loader)
    for step in run.steps(state.step, plan.num_steps):
        metrics = train_step(cfg, state, world, lr=plan.lr(step))
        run.after_step(cfg, state, metrics)


if __name__ == "__main__":
    start(main, Config)
