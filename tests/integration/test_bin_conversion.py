"""`pytorch_model.bin` becomes what transformers makes of it: the same names, files, index and values."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tune_checkpoint import convert

SHARD = 60_000


def small_model(*, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def write_bin(model: LlamaForCausalLM, folder: Path, *, num_shards: int, is_zip: bool) -> None:
    """Write a model as transformers 4 did, which also kept the rotary frequencies."""
    model.config.save_pretrained(folder)
    weights = model.state_dict()
    weights |= {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(6)
        for layer in range(model.config.num_hidden_layers)
    }
    if num_shards == 1:
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
        return
    names = list(weights)
    weight_map = {}
    for index in range(num_shards):
        file = f"pytorch_model-{index + 1:05d}-of-{num_shards:05d}.bin"
        part = {name: weights[name] for name in names[index::num_shards]}
        torch.save(part, folder / file, _use_new_zipfile_serialization=is_zip)
        weight_map |= dict.fromkeys(part, file)
    index_text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / "pytorch_model.bin.index.json").write_text(index_text)


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_weights_and_their_files_are_those_of_transformers(
    tmp_path: Path, tied: bool, is_zip: bool, num_shards: int
):
    model = small_model(tied=tied)
    write_bin(model, tmp_path / "bin", num_shards=num_shards, is_zip=is_zip)
    model.save_pretrained(tmp_path / "theirs", max_shard_size=SHARD)
    convert(tmp_path / "bin", tmp_path / "ours", max_shard_size=SHARD)
    theirs, ours = loaded(tmp_path / "theirs"), loaded(tmp_path / "ours")
    assert theirs.keys() == ours.keys()
    assert ("lm_head.weight" in ours) is not tied
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    if num_shards == 1:  # the order of the tensors is the same, so their files are
        index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
        assert index == json.loads((tmp_path / "theirs" / "model.safetensors.index.json").read_text())
    tokens = torch.arange(9)[None]
    read_back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        assert torch.equal(read_back(tokens).logits, model.eval()(tokens).logits)
