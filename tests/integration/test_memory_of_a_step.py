"""The estimate of memory against what the system counts for a real step."""

import subprocess
import sys

import pytest
import torch

from tune_recipes.models.config import ModelConfig
from tune_recipes.models.load import meta_model
from tune_recipes.train.memory import Load, estimate_memory

PEAK = """
import pathlib, resource, torch
from tests_shape import SHAPE
from tune_recipes.losses import cross_entropy_sum
from tune_recipes.models.load import allocate_, init_weights_, meta_model
from tune_recipes.schema import Optim
from tune_recipes.train import build_optimizer
def peak():
    # Linux counts in ru_maxrss what the process that started this one had, which here may be gigabytes.
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def step(model, optimizer, ids):
    logits = model(ids).flatten(0, 1)
    cross_entropy_sum(logits, ids.flatten()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
torch.set_num_threads(1)
def build(shape):
    model = meta_model(shape, dtype=torch.float32)
    allocate_(model, "cpu")
    init_weights_(model, seed=0)
    return model, build_optimizer(model, Optim())
step(*build(SHAPE(layers=1, width=32)), torch.zeros(1, 8, dtype=torch.int64))
before = peak()
model, optimizer = build(SHAPE(layers=6, width=512))
for _ in range(2):
    step(model, optimizer, torch.zeros(4, 512, dtype=torch.int64))
print(peak() - before)
"""
SHAPE_MODULE = """
from tune_recipes.models.config import ModelConfig
def SHAPE(layers, width):
    return ModelConfig(vocab_size=8000, hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=4)
"""


def test_the_whole_is_near_what_the_system_counts_for_a_real_step(tmp_path):
    (tmp_path / "tests_shape.py").write_text(SHAPE_MODULE)
    done = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    shape = ModelConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    memory = estimate_memory(
        meta_model(shape, dtype=torch.float32),
        Load(num_processes=1, optimizer="adamw", batch_size=4, num_tokens=512, num_targets=512),
    )
    expected = memory.total - memory.checkpoint  # nothing is saved there
    assert int(done.stdout) == pytest.approx(expected, rel=0.25)
