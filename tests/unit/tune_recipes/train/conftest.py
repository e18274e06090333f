"""A tiny model, and a loader over records of unequal lengths."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import random_model
from tune_recipes.catalog import local_path
from tune_recipes.data.loader import Loader, build_loader
from tune_recipes.models.config import ModelConfig
from tune_recipes.models.decoder import Decoder
from tune_recipes.schema import Data, Training
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train.distributed import World, join_world

NUM_RECORDS = 6
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from a second thread, and lose much when the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def world() -> Iterator[World]:
    with join_world() as world:
        yield world


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(local_path("builtin:demo"))


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Training]:
    """Return options of a run over records of unequal lengths: `make_config(batch_size=4)`."""
    path = tmp_path / "data.jsonl"
    records = [
        {"prompt": "one two " * (i % 3 + 1), "completion": "three four " * (i + 1)}
        for i in range(NUM_RECORDS)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    data = Data(path=str(path), format="completion", shuffle=False)

    def make(**options: Any) -> Training:
        return Training(model="builtin:demo", data=data, **options)

    return make


@pytest.fixture
def make_loader(tokenizer: Tokenizer) -> Callable[[Training], Loader]:
    def make(cfg: Training) -> Loader:
        return build_loader(
            cfg.data,
            tokenizer,
            batch_size=cfg.batch_size,
            step_size=cfg.batch_size * cfg.grad_accum_steps,
            seed=cfg.seed,
        )

    return make


@pytest.fixture
def make_model(tokenizer: Tokenizer) -> Callable[..., Decoder]:
    """Build a model; the same weights every time: `make_model(device, attention_bias=True)`."""

    def make(device: torch.device | str = "cpu", **shape: Any) -> Decoder:
        config = ModelConfig(vocab_size=tokenizer.vocab_size, **{**SHAPE, **shape})
        return random_model(config, seed=3, device=device)

    return make
