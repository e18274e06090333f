"""Heads that are the embedding, or are said to be: transformers loads the same model afterwards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GPT2Config, LlamaConfig
from transformers.modeling_utils import PreTrainedModel

from tune_checkpoint import convert, diff, open_checkpoint
from tune_checkpoint.tied import TIED_BY_DEFAULT

SIZES: dict[str, Any] = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 40,
}
Weights = dict[str, torch.Tensor]


def llama(*, tied: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, intermediate_size=48, tie_word_embeddings=tied)
    return AutoModelForCausalLM.from_config(config).eval()


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(GPT2Config(**SIZES, n_positions=64)).eval()


def saved(model: PreTrainedModel, folder: Path, weights: Weights, *, says: bool | None) -> Path:
    """The model with these weights in a torch file, and a configuration that says so about its head."""
    folder.mkdir()
    torch.save(weights, folder / "pytorch_model.bin")
    config = json.loads(model.config.to_json_string(use_diff=False)) | {
        "architectures": [type(model).__name__]
    }
    config.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(
        json.dumps(config if says is None else config | {"tie_word_embeddings": says})
    )
    return folder


def logits(folder: Path) -> torch.Tensor:
    """What transformers computes, after it has found all weights that it wants."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, found = loaded
    assert not found["missing_keys"]
    with torch.no_grad():
        return model.eval()(torch.arange(8)[None]).logits


def own_head(model: PreTrainedModel) -> Weights:
    weights = dict(model.state_dict())
    return weights | {"lm_head.weight": torch.randn_like(weights["lm_head.weight"])}


def copied_head(model: PreTrainedModel) -> Weights:
    weights = dict(model.state_dict())
    return weights | {"lm_head.weight": weights["lm_head.weight"].clone()}


def shared_head(model: PreTrainedModel) -> Weights:
    return dict(model.state_dict())


@pytest.mark.parametrize(
    ("make", "says", "weights", "is_kept", "is_told"),
    [
        (lambda: llama(tied=True), True, shared_head, False, False),
        (lambda: llama(tied=True), True, copied_head, False, False),
        (lambda: llama(tied=True), True, own_head, True, True),
        (lambda: llama(tied=True), None, shared_head, True, False),
        (lambda: llama(tied=True), False, shared_head, True, False),
        (lambda: llama(tied=False), None, own_head, True, False),
        (gpt2, None, shared_head, False, False),
        (gpt2, None, copied_head, False, False),
        (gpt2, None, own_head, True, True),
        (gpt2, False, shared_head, True, False),
    ],
)
def test_transformers_loads_the_same_model(
    tmp_path: Path,
    make: Callable[[], PreTrainedModel],
    says: bool | None,
    weights: Callable[[PreTrainedModel], Weights],
    is_kept: bool,
    is_told: bool,
):
    model = make()
    folder = saved(model, tmp_path / "model", weights(model), says=says)
    result = convert(folder, tmp_path / "out")
    assert ("lm_head.weight" in open_checkpoint(tmp_path / "out")) is is_kept
    assert any("is not the same as the embedding; both" in warning for warning in result.warnings) is is_told
    written: dict[str, Any] = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written.get("tie_word_embeddings") is (False if is_told else says)
    assert torch.equal(logits(folder), logits(tmp_path / "out"))


def test_families_that_tie_by_default_do_so_in_transformers():
    assert all(CONFIG_MAPPING[family]().tie_word_embeddings is True for family in TIED_BY_DEFAULT)


def test_layers_that_share_their_weights_are_both_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {**SIZES, "num_hidden_layers": 2, "intermediate_size": 48, "tie_word_embeddings": True}
    config = LlamaConfig.from_dict(shape)
    model = AutoModelForCausalLM.from_config(config).eval()
    weights = dict(model.state_dict())
    weights |= {
        name: weights[name.replace("layers.1.", "layers.0.")] for name in weights if ".layers.1." in name
    }
    source = saved(model, tmp_path / "source", weights, says=True)
    convert(source, tmp_path / "out")
    assert torch.equal(logits(tmp_path / "out"), logits(source))


def test_a_layer_that_is_missing_is_a_difference_though_it_shares_its_weights(tmp_path: Path) -> None:
    weights = dict(llama(tied=True).state_dict())
    norm = weights["model.norm.weight"]
    source = saved(llama(tied=True), tmp_path / "a", weights | {"model.layers.1.x.weight": norm}, says=True)
    other = saved(llama(tied=True), tmp_path / "b", weights, says=True)
    assert not diff(source, other).identical
