"""Fine-tune a model by training a small adapter (LoRA) beside its frozen weights.

    tune run lora_finetune --config alpaca_smollm2_135m_lora_finetune
    python lora_finetune.py model=models/smollm2 data.path=mine.jsonl lora.rank=16

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, section 4.
"""

import torch

from tune_recipes.catalog import local_path
from tune_recipes.data.loader import build_loader
from tune_recipes.lora import add_lora, merge_lora_, save_adapter
from tune_recipes.models.export import save_model
from tune_recipes.models.load import load_model
from tune_recipes.runner import start
from tune_recipes.schema import Lora, Optim, Training
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train.checkpoint import TrainState, load_latest, save_checkpoint
from tune_recipes.train.distributed import World, join_world, shard
from tune_recipes.train.optim import build_optimizer, build_schedule
from tune_recipes.train.precision import resolve_dtype
from tune_recipes.train.run import Run
from tune_recipes.train.setup import count_steps
from tune_recipes.train.step import train_step


class Config(Training, frozen=True, kw_only=True):
    """The options of this recipe: those that every training recipe has, and the adapter."""

    optim: Optim = Optim(lr=2e-4)
    """The optimizer; adapters take a higher rate than whole models."""
    lora: Lora = Lora()
    """The adapter that is trained instead of the model."""


def main(cfg: Config, run: Run) -> None:
    """Load the model, add the adapter, train it, and export it alone or merged in too."""
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
        model = load_model(folder, dtype=resolve_dtype(cfg.dtype, world.device), device=world.device)
        add_lora(
            model,
            targets=cfg.lora.targets,
            rank=cfg.lora.rank,
            alpha=cfg.lora.alpha,
            dropout=cfg.lora.dropout,
            seed=cfg.seed,
        )
        shard(model, world.mesh)
        state = TrainState(model, build_optimizer(model, cfg.optim), loader)
        run.describe(model, loader)
        load_latest(run.checkpoints, state)
        train(cfg, run, state, world)
        save_adapter(model, run.final, base=str(folder.resolve()))
        if cfg.lora.merge:
            merge_lora_(model)
            save_model(model, run.merged, config=model.config, source=folder)
        run.finish(cfg.data.format)


def train(cfg: Config, run: Run, state: TrainState, world: World) -> None:
    """Take the steps that are left; only the adapter changes, and only it is saved."""
    num_steps = count_steps(cfg, state.loader)
    lr_at = build_schedule(cfg.schedule, cfg.optim.lr, num_steps)
    accum, max_norm = cfg.grad_accum_steps, cfg.optim.max_grad_norm
    for step in run.steps(state.step, num_steps):
        run.log(
            step, train_step(state, world, lr=lr_at(step), grad_accum_steps=accum, max_grad_norm=max_norm)
        )
        if run.must_save(step, cfg.checkpoint.save_every):
            save_checkpoint(run.checkpoints, state, keep_last=cfg.checkpoint.keep_last)
        run.stop_if_asked(step)


if __name__ == "__main__":
    start(main, Config)
