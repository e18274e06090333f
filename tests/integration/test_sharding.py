"""A model split over two processes is the model, and neither process ever holds it whole."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support import random_model
from tune_recipes.lora import load_adapter, merge_lora_
from tune_recipes.models.config import ModelConfig
from tune_recipes.models.export import save_model
from tune_recipes.models.load import load_model

SHAPE = ModelConfig(
    vocab_size=20_001,  # not to be halved
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    initializer_range=0.2,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def seen(place: Path) -> list[dict[str, Any]]:
    """What each of two processes saw."""
    save_model(random_model(SHAPE, seed=1), place / "source", config=SHAPE, source=None)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    probe = str(Path(__file__).with_name("sharding_probe.py"))
    done = subprocess.run(
        [*launcher, *meet, probe, place / "source", place], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads((place / "seen.json").read_text())


def test_each_process_holds_and_reads_its_part(seen: list[dict[str, Any]]):
    assert sum(of["held"] for of in seen) == seen[0]["in_all"]
    for of in seen:
        assert of["held"] < 0.52 * of["in_all"]
        assert of["read_at_once"] < 0.7 * of["largest"]


def test_it_is_the_same_model_and_its_tied_head_stays_tied(seen: list[dict[str, Any]]):
    for of in seen:
        assert of["is_tied"]
        assert of["same_weights"]
        assert of["logits_differ_by"] < 1e-5
        assert of["gradients_differ_by"] < 1e-5


def test_the_export_is_the_source(seen: list[dict[str, Any]], place: Path):
    assert seen
    source, exported = (load_file(place / name / "model.safetensors") for name in ("source", "exported"))
    assert source.keys() == exported.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in source.items())


def test_an_adapter_of_another_type_beside_a_frozen_model_alone_is_trained(seen: list[dict[str, Any]]):
    for of in seen:
        assert of["adapter"] == {"trained_alone": True, "count": 2 * 7 * SHAPE.num_hidden_layers}


def test_adapter_and_merged_model_are_those_of_one_process(seen: list[dict[str, Any]], place: Path):
    assert seen
    model = load_model(place / "source", dtype=torch.bfloat16)
    load_adapter(model, place / "adapter")
    merge_lora_(model)
    merged = load_file(place / "merged" / "model.safetensors")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(merged[name], parameter.detach(), atol=1e-2, rtol=0, msg=name)


def test_an_error_in_the_first_process_ends_the_others_without_a_word(seen: list[dict[str, Any]]):
    assert [of["told"] for of in seen] == [["OSError"] * 2, ["ToldElsewhere"] * 2]
