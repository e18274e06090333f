"""What is written loads in transformers unchanged."""

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from support import random_model
from tune_recipes.models.config import ModelConfig, read_model_config
from tune_recipes.models.export import COMPANION_FILES, save_model
from tune_recipes.models.load import load_model


@torch.no_grad()
def logits_in_transformers(folder, input_ids):
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not any(info.values()), info
    return model(input_ids).logits


@torch.no_grad()
def test_export_loads_in_transformers_with_equal_logits(reference, input_ids, tmp_path):
    model = load_model(reference.folder, dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.mul_(1.1)  # as if it had been trained

    save_model(model, tmp_path / "out", config=model.config, source=reference.folder)

    torch.testing.assert_close(
        logits_in_transformers(tmp_path / "out", input_ids), model(input_ids), atol=1e-4, rtol=0
    )
    again = load_model(tmp_path / "out", dtype=torch.float32)
    assert all(torch.equal(again.get_parameter(name), p) for name, p in model.named_parameters())


def test_tied_head_is_written_once(references, tmp_path):
    for name, count in (("tied", 1), ("biased", 2)):
        model = load_model(references[name].folder, dtype=torch.float32)
        save_model(model, tmp_path / name, config=model.config, source=None)
        with safe_open(tmp_path / name / "model.safetensors", "pt") as file:
            assert len({"lm_head.weight", "model.embed_tokens.weight"} & set(file.keys())) == count
            assert file.metadata() == {"format": "pt"}


@torch.no_grad()
def test_random_model_loads_in_transformers(input_ids, tmp_path):
    config = ModelConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    model = random_model(config, seed=0).eval()
    save_model(model, tmp_path / "out", config=config, source=None)

    torch.testing.assert_close(
        logits_in_transformers(tmp_path / "out", input_ids), model(input_ids), atol=1e-4, rtol=0
    )
    assert read_model_config(tmp_path / "out") == config


def test_bfloat16_is_stored_and_said_in_both_dialects(references, tmp_path):
    model = load_model(references["tied"].folder, dtype=torch.bfloat16)
    save_model(model, tmp_path / "out", config=model.config, source=references["tied"].folder)

    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["dtype"], written["torch_dtype"]) == ("bfloat16", "bfloat16")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert all(torch.equal(theirs[name], p) for name, p in model.named_parameters())


@pytest.fixture
def source(references, tmp_path):
    """A folder with all that a model can have beside its weights, and more."""
    folder = tmp_path / "source"
    folder.mkdir()
    raw = json.loads((references["tied"].folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "vocab_size": 60, "custom": {"kept": True}}))
    for name in (*COMPANION_FILES, "optimizer.pt", "README.md"):
        (folder / name).write_text(f"this is {name}")
    return folder


def test_companions_come_along_and_the_config_is_kept_but_for_what_changed(references, source, tmp_path):
    model = load_model(references["tied"].folder, dtype=torch.float32)

    save_model(model, tmp_path / "out", config=model.config, source=source)

    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*COMPANION_FILES, "config.json", "model.safetensors"}
    assert all((tmp_path / "out" / name).read_text() == f"this is {name}" for name in COMPANION_FILES)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["custom"] == {"kept": True}
    assert written["vocab_size"] == 61
    assert list(tmp_path.glob(".*")) == []  # no folder half written beside it
