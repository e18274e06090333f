"""Loading from a folder, what is refused, and random initialisation."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from support import random_model
from tune_recipes.errors import UserError
from tune_recipes.models.config import ModelConfig, hf_config
from tune_recipes.models.load import load_model

SMALL = ModelConfig(
    vocab_size=2000,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    attention_bias=True,
    initializer_range=0.05,
)


@pytest.fixture
def edit(references, tmp_path):
    """Copy a reference's folder with its tensors changed."""

    def edit(name: str, change) -> Path:
        folder = tmp_path / name
        shutil.copytree(references[name].folder, folder)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return edit


def load(folder, dtype=torch.float32):
    return load_model(folder, dtype=dtype)


def test_parameters_carry_the_checkpoints_names_and_values(reference):
    ours = dict(load(reference.folder).named_parameters())
    theirs = dict(reference.model.named_parameters())

    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_tied_head_is_the_embedding_itself(references):
    tied, untied = load(references["tied"].folder), load(references["biased"].folder)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_stored_types_become_the_type_asked_for(edit, stored, wanted):
    folder = edit("tied", lambda tensors: tensors.update({k: v.to(stored) for k, v in tensors.items()}))
    name = "model.layers.1.mlp.up_proj.weight"

    parameter = load(folder, wanted).get_parameter(name)

    assert parameter.dtype == wanted
    assert torch.equal(parameter, load_file(folder / "model.safetensors")[name].to(wanted))


def test_shards_are_read_through_their_index(references, tmp_path):
    reference = references["biased"]
    reference.model.save_pretrained(tmp_path, max_shard_size="100kB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1

    ours = load(tmp_path)
    assert all(torch.equal(ours.get_parameter(name), p) for name, p in reference.model.named_parameters())


def test_missing_tensor_is_named_with_its_shape(edit):
    folder = edit("tied", lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(
        UserError, match=r"model.layers.1.mlp.up_proj.weight of shape \[80, 48\] is missing, but"
    ):
        load(folder)


def test_missing_tensors_are_counted(edit):
    folder = edit("tied", dict.clear)
    with pytest.raises(UserError, match=r"embed_tokens.weight .* is missing \(and 28 more\)"):
        load(folder)


def test_missing_head_suggests_the_tie(edit):
    folder = edit("biased", lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r'lm_head.weight .* is missing.* "tie_word_embeddings": true'):
        load(folder)


def test_misshapen_tensor_is_named_with_both_shapes(edit):
    name = "model.layers.0.self_attn.k_proj.weight"
    folder = edit("tied", lambda tensors: tensors.update({name: torch.zeros(48, 48)}))
    with pytest.raises(
        UserError, match=r"k_proj.weight has shape \[48, 48\], but config.json asks for \[16, 48\]"
    ):
        load(folder)


def test_unexpected_tensor_is_named(edit):
    name = "model.layers.0.self_attn.q_proj.bias"
    folder = edit("tied", lambda tensors: tensors.update({name: torch.zeros(48)}))
    with pytest.raises(UserError, match=r"q_proj.bias is unexpected: the model that config.json describes"):
        load(folder)


def test_quantised_tensor_is_refused_with_its_type(edit):
    name = "model.layers.0.self_attn.q_proj.weight"
    folder = edit("tied", lambda tensors: tensors.update({name: tensors[name].to(torch.float8_e4m3fn)}))
    with pytest.raises(UserError, match=r"q_proj.weight is of type F8_E4M3; supported are F32, F16, BF16"):
        load(folder)


def test_stored_copy_of_a_tied_head_is_redundant(edit):
    embedding = "model.embed_tokens.weight"
    folder = edit("tied", lambda tensors: tensors.update({"lm_head.weight": tensors[embedding].clone()}))
    assert torch.equal(load(folder).lm_head.weight, load_file(folder / "model.safetensors")[embedding])


def test_stored_head_that_is_not_the_tied_embedding_is_refused(edit):
    folder = edit("tied", lambda tensors: tensors.update({"lm_head.weight": torch.zeros(61, 48)}))
    with pytest.raises(UserError, match=r'lm_head.weight is unexpected.* "tie_word_embeddings": false'):
        load(folder)


def test_stored_rope_frequencies_are_redundant(edit):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    load(edit("tied", lambda tensors: tensors.update({name: torch.zeros(4)})))


def test_folder_without_weights_says_so(references, tmp_path):
    shutil.copy(references["tied"].folder / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load(tmp_path)


def test_truncated_weights_name_the_file(references, tmp_path):
    shutil.copytree(references["tied"].folder, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.safetensors.*truncated"):
        load(tmp_path)


def test_random_weights_follow_the_seed_alone():
    one, again, other = (random_model(SMALL, seed=seed) for seed in (1, 1, 2))
    rounded = random_model(SMALL, seed=1, dtype=torch.bfloat16)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        assert torch.equal(parameter.bfloat16(), rounded.get_parameter(name))
        assert torch.equal(parameter, other.get_parameter(name)) == (parameter.ndim == 1)


@torch.no_grad()
def test_random_weights_are_distributed_as_transformers_draws_them(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(hf_config(SMALL, "float32")))
    theirs = LlamaForCausalLM(LlamaConfig.from_pretrained(tmp_path))
    ours = random_model(SMALL, seed=0)
    for name, parameter in theirs.named_parameters():
        mine = ours.get_parameter(name)
        if parameter.ndim == 1:
            assert torch.equal(mine, parameter)
        else:
            assert mine.std() == pytest.approx(parameter.std().item(), rel=0.05)
            assert mine.mean() == pytest.approx(0, abs=0.003)
