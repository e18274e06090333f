"""The estimate of memory part by part, and what is said when it is not enough."""

import runpy

import pytest
import torch

from support import TINY
from tune_recipes.catalog import RECIPES
from tune_recipes.config import load_config
from tune_recipes.lora import add_lora
from tune_recipes.models.config import ModelConfig
from tune_recipes.models.load import allocate_, init_weights_, meta_model
from tune_recipes.recipe_source import read_config_class
from tune_recipes.train.memory import Load, estimate_memory
from tune_recipes.train.out_of_memory import is_out_of_memory
from tune_recipes.train.plan import plan

SHAPE = ModelConfig(
    vocab_size=4000,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
)
LOAD = Load(num_processes=1, optimizer="adamw", batch_size=2, num_tokens=256, num_targets=256)


@pytest.fixture
def on_meta():
    return meta_model(SHAPE, dtype=torch.float32)


@pytest.mark.parametrize("adapter", [False, True])
def test_activations_are_what_autograd_keeps_on_the_cpu(adapter):
    model = meta_model(SHAPE, dtype=torch.float32)
    if adapter:
        add_lora(model, rank=8, alpha=16)
    expected = estimate_memory(model, LOAD).activations
    allocate_(model, "cpu")
    init_weights_(model, seed=0)
    owned = {parameter.data_ptr() for parameter in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model.model(torch.zeros(2, 256, dtype=torch.int64))
    assert hidden.requires_grad
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert expected == pytest.approx(real, rel=0.02)


def test_more_processes_take_less_each_and_gather_blocks(on_meta):
    alone, half = (
        estimate_memory(on_meta, Load(n, "adamw", batch_size=2, num_tokens=256, num_targets=256))
        for n in (1, 2)
    )
    assert alone.gathered == 0
    assert half.gathered > 0
    for name in ("parameters", "gradients", "optimizer", "checkpoint"):
        assert getattr(half, name) == pytest.approx(getattr(alone, name) / 2, rel=0.01)
    assert half.activations == alone.activations


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_known_from_others(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_plan_is_made_by_the_recipe_itself():
    recipe = RECIPES / "full_finetune.py"
    given = ["model=builtin:demo", "data.path=builtin:demo/capitals.jsonl", "data.format=chat", "init=random"]
    words = [*given, *TINY, "batch_size=3", "grad_accum_steps=2"]
    cfg = load_config(read_config_class(recipe), None, words).config
    planned = plan(runpy.run_path(str(recipe))["main"], cfg, num_processes=4)
    assert (planned.records_a_step, planned.steps) == (24, 8)  # 180 records
    assert planned.trained == planned.parameters == 43_168
