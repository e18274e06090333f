"""How long training waits for a checkpoint, beside writing it while training waits.

    uv run python benchmarks/checkpoints.py

Weights and AdamW's state of a model of SmolLM2-135M's shape in fp32, 1.6 GB, saved both ways in turn, through
the same code: one returns when the copy in memory is made, the other when all is on the disk.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tune_recipes.catalog import local_path
from tune_recipes.data.loader import build_loader
from tune_recipes.models.config import ModelConfig
from tune_recipes.models.load import allocate_, init_weights_, meta_model
from tune_recipes.schema import Data, Optim
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train import TrainState, build_optimizer
from tune_recipes.train.distributed import join_world
from tune_recipes.train.saving import Saver

ROUNDS = 5
SMOLLM2 = ModelConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)


def trained_state() -> TrainState:
    """Return a state as it is after a step: weights, and two moments of each."""
    model = meta_model(SMOLLM2, dtype=torch.float32)
    allocate_(model, "cpu")
    init_weights_(model, seed=0)
    optimizer = build_optimizer(model, Optim())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    data = Data(path="builtin:demo/capitals.jsonl", format="chat")
    return TrainState(
        model, optimizer, build_loader(data, Tokenizer(local_path("builtin:demo")), batch_size=1, seed=0)
    )


def seconds(function: Callable[[], object]) -> float:
    """Call it and return how long it took."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder, join_world() as world:
        place = Path(folder) / "run" / "checkpoints"
        place.mkdir(parents=True)
        state, saver = trained_state(), Saver(place, world, keep_last=1)
        waits: list[float] = []
        wholes: list[float] = []
        for _ in range(ROUNDS + 1):
            state.step += 1
            waits.append(seconds(lambda: saver.save(state)))
            saver.wait()
            state.step += 1
            wholes.append(seconds(lambda: (saver.save(state), saver.wait())))
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    print(f"| {size / 1e9:.1f} GB, median of {ROUNDS} | s |\n|---|---|")
    print(f"| until it is on the disk | {statistics.median(wholes[1:]):.2f} |")
    print(f"| until training goes on | {statistics.median(waits[1:]):.2f} |")
    ratio = statistics.median(wait / whole for wait, whole in zip(waits[1:], wholes[1:], strict=True))
    print(f"| ratio (median of the rounds') | {ratio:.2f} |")


if __name__ == "__main__":
    main()
