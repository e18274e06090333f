"""Fine-tune a model by training a small adapter (LoRA) beside its frozen weights.

    tune run lora_finetune --config alpaca_smollm2_135m_lora_finetune
    python lora_finetune.py model=models/smollm2 data.path=mine.jsonl lora.rank=16

What comes out is a PEFT folder of a few megabytes; with lora.merge=true, the merged model too.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, section 4.
"""

import torch

from tune_recipes.catalog import local_path
from tune_recipes.lora import add_lora, init_lora_, merge_lora_, save_adapter
from tune_recipes.models.config import read_model_config
from tune_recipes.models.export import save_model
from tune_recipes.models.load import allocate_, load_weights_, meta_model
from tune_recipes.runner import start
from tune_recipes.schema import Lora, Optim, Training
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train import Run, TrainState, batches_of, build_optimizer, plan_steps, train_step
from tune_recipes.train.distributed import shard
from tune_recipes.train.precision import resolve_dtype


class Config(Training, frozen=True, kw_only=True):
    """The options of this recipe: those that every training recipe has, and the adapter."""

    optim: Optim = Optim(lr=2e-4)
    """The optimizer; adapters take a higher rate than whole models."""
    lora: Lora = Lora()
    """The adapter that is trained instead of the model."""


def main(cfg: Config, run: Run) -> None:
    """Put the adapter beside the frozen model, train it, and export it alone or merged in too."""
    world = run.world
    torch.manual_seed(cfg.seed + world.rank)  # each process drops out other inputs
    folder = local_path(cfg.model)
    loader = batches_of(cfg, run, Tokenizer(folder))
    model = meta_model(read_model_config(folder), dtype=resolve_dtype(cfg.dtype, world.device))
    add_lora(
        model,
        targets=cfg.lora.targets,
        rank=cfg.lora.rank,
        alpha=cfg.lora.alpha,
        dropout=cfg.lora.dropout,
    )
    shard(model, world.mesh)
    allocate_(model, world.device)
    load_weights_(model, folder)
    init_lora_(model, seed=cfg.seed)
    state = TrainState(model, build_optimizer(model, cfg.optim), loader)
    run.begin(cfg, state)
    train(cfg, run, state)
    # The absolute path, so that the adapter finds its base from wherever it is loaded.
    save_adapter(model, run.final, base=str(folder.resolve()), world=world)
    if cfg.lora.merge:
        merge_lora_(model)
        save_model(model, run.merged, config=model.config, source=folder, world=world)
    run.finish(cfg.data.format)


def train(cfg: Config, run: Run, state: TrainState) -> None:
    """Take the steps that are left; only the adapter changes, and only it is saved."""
    plan = plan_steps(cfg, state.loader)
    for step in run.steps(state.step, plan.num_steps):
        metrics = train_step(cfg, state, run.world, lr=plan.lr(step))
        run.after_step(cfg, state, metrics)


if __name__ == "__main__":
    start(main, Config)
