"""Fine-tune a model by training a small adapter (LoRA) beside its frozen weights.

    tune run lora_finetune --config alpaca_smollm2_135m_lora_finetune
    python lora_finetune.py model=models/smollm2 data.path=mine.jsonl lora.rank=16

What comes out is a PEFT folder of a few megabytes; with lora.merge=true, the merged model too.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, section 4.
"""

import torch

from tune_recipes.catalog import local_path
from tune_recipes.lora import add_lora, merge_lora_, save_adapter
from tune_recipes.models.export import save_model
from tune_recipes.models.load import load_model
from tune_recipes.runner import start
from tune_recipes.schema import Lora, Optim, Training
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train import Run, TrainState, batches_of, build_optimizer, plan_steps, train_step
from tune_recipes.train.distributed import World, join_world, shard
from tune_recipes.train.precision import resolve_dtype


class Config(Training, frozen=True, kw_only=True):
    """The options of this recipe: those that every training recipe has, and the adapter."""

    optim: Optim = Optim(lr=2e-4)
    """The optimizer; adapters take a higher rate than whole models."""
    lora: Lora = Lora()
    """The adapter that is trained instead of the model."""


def main(cfg: Config, run: Run) -> None:
    """Load the model, put the adapter beside it, train that, and export it alone or merged in too."""
    torch.manual_seed(cfg.seed)
    folder = local_path(cfg.model)
    with join_world() as world:
        loader = batches_of(cfg, run, Tokenizer(folder), world)
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
        run.begin(state)
        train(cfg, run, state, world)
        # The absolute path, so that the adapter finds its base from wherever it is loaded.
        save_adapter(model, run.final, base=str(folder.resolve()))
        if cfg.lora.merge:
            merge_lora_(model)
            save_model(model, run.merged, config=model.config, source=folder)
        run.finish(cfg.data.format)


def train(cfg: Config, run: Run, state: TrainState, world: World) -> None:
    """Take the steps that are left; only the adapter changes, and only it is saved."""
    plan = plan_steps(cfg, state.loader)
    for step in run.steps(state.step, plan.num_steps):
        metrics = train_step(cfg, state, world, lr=plan.lr(step))
        run.after_step(cfg, state, metrics)


if __name__ == "__main__":
    start(main, Config)
