"""Converting Meta's checkpoints to Hugging Face folders."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from meta_checkpoints import LLAMA3, SCALED, MetaModel, Weights, config_of, hf_weights, rewrite, write_random
from tune_checkpoint import convert, open_checkpoint, plan_conversion
from tune_checkpoint.kinds import detect_kind


def assert_equal(written: Weights, expected: Weights) -> None:
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert written[name].dtype == tensor.dtype, name
        assert torch.equal(written[name], tensor), name


@pytest.mark.parametrize("num_parts", [1, 2, 4, 8])
@pytest.mark.parametrize("n_kv_heads", [None, 4, 1])
@pytest.mark.parametrize("embedding", ["rows", "columns"])
def test_parts_become_the_whole_bit_for_bit(
    tmp_path: Path, num_parts: int, n_kv_heads: int | None, embedding: Literal["rows", "columns"]
):
    model = MetaModel(n_kv_heads=n_kv_heads)
    _, weights = write_random(tmp_path / "src", model, num_parts=num_parts, embedding=embedding)
    assert detect_kind(tmp_path / "src") == "meta"
    result = convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))
    assert (result.kind, result.verified) == ("meta", True)
    config = config_of(tmp_path / "out")
    assert (config["num_key_value_heads"], config["vocab_size"]) == (n_kv_heads or 8, 96)
    assert (config["intermediate_size"], config["head_dim"]) == (256, 8)


def test_one_file_stands_for_all_parts(tmp_path: Path):
    model, weights = write_random(tmp_path, num_parts=2)
    convert(tmp_path / "consolidated.01.pth", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))


def test_heads_may_have_copies_in_every_part(tmp_path: Path):
    model = MetaModel(n_kv_heads=2)
    _, weights = write_random(tmp_path / "src", model, num_parts=4)
    for part in range(4):
        copies = {name: weights[name] for name in weights if "wk" in name or "wv" in name}
        rewrite(tmp_path / "src" / f"consolidated.{part:02}.pth", **copies)
    convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))


def test_dtype_casts_every_weight(tmp_path: Path):
    model, weights = write_random(tmp_path / "src", num_parts=2)
    convert(tmp_path / "src", tmp_path / "out", dtype="fp32")
    expected = {name: tensor.float() for name, tensor in hf_weights(model, weights).items()}
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), expected)
    assert config_of(tmp_path / "out")["dtype"] == config_of(tmp_path / "out")["torch_dtype"] == "float32"


def test_tables_of_rotary_frequencies_are_left_out(tmp_path: Path):
    model, weights = write_random(tmp_path / "src")
    freqs = {f"layers.{n}.attention.inner_attention.rope.freqs": torch.ones(4) for n in range(2)}
    rewrite(tmp_path / "src" / "consolidated.00.pth", **freqs)
    convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))


@pytest.mark.parametrize("num_parts", [1, 2])
def test_head_that_lies_where_the_embedding_does_is_written_once(tmp_path: Path, num_parts: int):
    model = MetaModel(is_tied=True, params=SCALED)
    _, weights = write_random(tmp_path / "src", model, num_parts=num_parts)
    convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))
    config = config_of(tmp_path / "out")
    assert config["tie_word_embeddings"] is True
    assert config["rope_scaling"]["factor"] == config["rope_parameters"]["factor"] == 32.0
    assert config["rope_parameters"] == config["rope_scaling"] | LLAMA3


@pytest.mark.parametrize("num_parts", [1, 2])
def test_head_that_is_a_copy_of_the_embedding_is_the_embedding(tmp_path: Path, num_parts: int):
    model = MetaModel(is_tied=True, params=SCALED)
    _, weights = write_random(tmp_path / "src", model, num_parts=num_parts)
    for path in (tmp_path / "src").glob("*.pth"):
        rewrite(path, **{"output.weight": torch.load(path)["tok_embeddings.weight"].clone()})
    result = convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))
    config = config_of(tmp_path / "out")
    assert (config["tie_word_embeddings"], config["rope_scaling"]["factor"]) == (True, 32.0)
    assert any("taken from Llama 3.2, since" in warning for warning in result.warnings)


def test_head_that_differs_in_its_last_number_stays(tmp_path: Path):
    model, weights = write_random(tmp_path / "src", MetaModel(vocab_size=40960, params=SCALED))
    weights["output.weight"] = weights["tok_embeddings.weight"].clone()
    weights["output.weight"][-1, -1] += 1
    rewrite(tmp_path / "src" / "consolidated.00.pth", **weights)
    convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))
    assert config_of(tmp_path / "out")["rope_scaling"]["factor"] == 8.0


@pytest.mark.parametrize(
    ("dtype", "params", "context", "factor", "eos"),
    [
        (torch.float16, {"norm_eps": 1e-6}, 2048, None, 2),
        (torch.bfloat16, {}, 4096, None, 2),
        (torch.bfloat16, {"rope_theta": 1000000}, 16384, None, 2),
        (torch.bfloat16, LLAMA3, 8192, None, 128001),
        (torch.bfloat16, SCALED, 131072, 8.0, 128001),
        (torch.bfloat16, SCALED | {"rope_scaling_factor": 16}, 131072, 16.0, 128001),
        (torch.bfloat16, {"max_position_embeddings": 1234}, 1234, None, 2),
    ],
)
def test_config_says_what_its_generation_of_llama_has(
    tmp_path: Path, dtype: torch.dtype, params: dict[str, Any], context: int, factor: float | None, eos: int
):
    write_random(tmp_path / "src", MetaModel(params=params, dtype=dtype))
    result = convert(tmp_path / "src", tmp_path / "out")
    config = config_of(tmp_path / "out")
    scaling = None if factor is None else config["rope_scaling"]["factor"]
    assert (config["max_position_embeddings"], scaling, config["eos_token_id"]) == (context, factor, eos)
    assert config["rms_norm_eps"] == params.get("norm_eps", 1e-5)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == params.get("rope_theta", 1e4)
    assert config_of(tmp_path / "out", "generation_config.json")["eos_token_id"] == eos
    (assumed,) = [text for text in result.warnings if "does not state" in text] or [""]
    assert (f"max_position_embeddings {context}" in assumed) == ("max_position_embeddings" not in params)
    is_guess = factor is not None and "rope_scaling_factor" not in params
    assert (f"a rotary factor of {factor or 0:g}" in assumed) == is_guess


def test_sizes_may_stand_below_model(tmp_path: Path):
    write_random(tmp_path)
    (tmp_path / "params.json").write_text(json.dumps({"model": MetaModel().params_json()}))
    assert plan_conversion(tmp_path).architecture == "LlamaForCausalLM"


def test_unknown_keys_are_named(tmp_path: Path):
    write_random(tmp_path, MetaModel(params={"use_biscuits": True}))
    assert (
        "params.json: 'use_biscuits' is not known here, and was left out"
        in plan_conversion(tmp_path).warnings
    )


@pytest.mark.parametrize("target", ["hf", "meta"])
def test_plan_is_made_without_numpy(tmp_path: Path, target: str):
    write_random(tmp_path, num_parts=2)
    code = """
import sys
from tune_checkpoint import plan_conversion
plan_conversion(sys.argv[1], to=sys.argv[2])
print(*{"numpy", "torch", "gguf"}.intersection(sys.modules))
"""
    command = [sys.executable, "-c", code, str(tmp_path), target]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == []


def test_nothing_of_the_source_is_changed(tmp_path: Path):
    write_random(tmp_path / "src", num_parts=2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "src").iterdir()}
    convert(tmp_path / "src", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "src").iterdir()} == before
    assert len(open_checkpoint(tmp_path / "out")) == 21
