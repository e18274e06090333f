"""What torchtune and LitGPT write, made by their own code, becomes the Hugging Face model that it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from isolated import run_with
from tune_checkpoint import convert

SAME_TORCH = f"torch=={torch.__version__.partition('+')[0]}"
TORCHTUNE = [SAME_TORCH, "torchtune==0.6.1", "torchao==0.9.0"]
LITGPT = [SAME_TORCH, "litgpt==0.5.13", "transformers"]

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

MAKE_TORCHTUNE = """
import sys, torch
from safetensors.torch import load_file
from torchtune.models.convert_weights import hf_to_tune, tune_to_meta

tune = hf_to_tune(load_file(sys.argv[1]), num_heads=8, num_kv_heads=2, dim=64)
torch.save(tune, sys.argv[2])
torch.save(tune_to_meta(tune), sys.argv[3])
"""

MAKE_LITGPT = """
import sys, torch
from pathlib import Path
from litgpt import GPT, Config
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.scripts.convert_lit_checkpoint import qkv_reassemble
from litgpt.utils import save_config
from safetensors.torch import load_file

config = Config(
    name="Llama-3.2-1B", hf_config={"org": "meta-llama", "name": "Llama-3.2-1B"}, block_size=256,
    n_layer=2, n_embd=64, n_head=8, n_query_groups=2, intermediate_size=80, vocab_size=96,
    padded_vocab_size=96, rotary_percentage=1.0, parallel_residual=False, bias=False,
    norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", rope_base=500000,
    rope_adjustments=dict(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=8192),
)
weights = {}
copy_weights_hf_llama(config, {}, weights, load_file(sys.argv[1]))
grouped = dict(weights)
for name in weights:
    if ".attn.qkv." in name:
        grouped[name.replace(".attn.qkv.", ".attn.attn.")] = qkv_reassemble(grouped.pop(name), config)
for folder, content in zip(map(Path, sys.argv[2:4]), (weights, grouped)):
    folder.mkdir()
    save_config(config, folder)
    torch.save({"model": content}, folder / "lit_model.pth")
model = GPT(config)
model.load_state_dict(weights)
torch.save(model(torch.arange(40)[None]).detach(), sys.argv[4])
"""

LLAMA32_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama as transformers saves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("foreign") / "hf"
    LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA32_ROPE)).save_pretrained(folder)
    return folder


def assert_same_weights(folder: Path, original: Path) -> None:
    written, expected = (load_file(path / "model.safetensors") for path in (folder, original))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def torchtune_folders(original: Path) -> list[Path]:
    folders = [original.parent / "tune", original.parent / "meta"]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_bytes((original / "config.json").read_bytes())
    files = [folders[0] / "torchtune_model_0.pt", folders[1] / "meta_model_0.pt"]
    run_with(TORCHTUNE, MAKE_TORCHTUNE, str(original / "model.safetensors"), *map(str, files))
    return folders


@pytest.mark.parametrize("names", [0, 1], ids=["torchtune's names", "Meta's names"])
def test_torchtunes_output_comes_back_bit_for_bit(
    original: Path, torchtune_folders: list[Path], names: int, tmp_path: Path
):
    (file,) = torchtune_folders[names].glob("*.pt")
    convert(file, tmp_path / "out", kind="torchtune")
    assert_same_weights(tmp_path / "out", original)


@pytest.fixture(scope="module")
def litgpt_folders(original: Path) -> list[Path]:
    folders = [original.parent / "lit", original.parent / "lit-grouped"]
    weights = original / "model.safetensors"
    run_with(LITGPT, MAKE_LITGPT, str(weights), *map(str, folders), str(original.parent / "lit-logits.pt"))
    return folders


@pytest.mark.parametrize("layout", [0, 1], ids=["one after another", "by groups"])
def test_litgpts_checkpoint_comes_back_bit_for_bit(
    original: Path, litgpt_folders: list[Path], layout: int, tmp_path: Path
):
    convert(litgpt_folders[layout], tmp_path / "out")
    assert_same_weights(tmp_path / "out", original)
    written, expected = (
        json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", original)
    )
    same = (*SIZES, "rope_parameters", "head_dim", "architectures", "attention_bias", "mlp_bias")
    assert {key: written[key] for key in same} == {key: expected[key] for key in same}


def test_converted_model_computes_what_litgpt_does(
    original: Path, litgpt_folders: list[Path], tmp_path: Path
):
    convert(litgpt_folders[0], tmp_path / "out")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        logits = model(torch.arange(40)[None]).logits
    expected = torch.load(original.parent / "lit-logits.pt")
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
