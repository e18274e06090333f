"""Converting Mistral's `consolidated.safetensors` to Hugging Face folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from meta_checkpoints import MetaModel, Weights, config_of, hf_weights, random_weights, write_meta
from tune_checkpoint import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError, convert
from tune_checkpoint import plan_conversion as plan
from tune_checkpoint.kinds import detect_kind

MODEL = MetaModel(n_kv_heads=2, head_dim=16, hidden_dim=100)


def params(**changes: Any) -> dict[str, Any]:
    return {
        "dim": MODEL.dim,
        "n_layers": MODEL.n_layers,
        "head_dim": MODEL.head_dim,
        "hidden_dim": MODEL.hidden_dim,
        "n_heads": MODEL.n_heads,
        "n_kv_heads": MODEL.n_kv_heads,
        "norm_eps": 1e-5,
        "vocab_size": MODEL.vocab_size,
        "rope_theta": 1000000.0,
    } | changes


def write(folder: Path, num_files: int = 1, index: bool = False, **changes: Any) -> Weights:
    """A folder as Mistral publishes it: each tensor whole, in one file or another."""
    weights = random_weights(MODEL)
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params(**changes)))
    names = [f"consolidated-{n + 1:05}-of-{num_files:05}.safetensors" for n in range(num_files)]
    places = {name: names[number % num_files] for number, name in enumerate(weights)}
    for file in names:
        part = {name: weights[name] for name in weights if places[name] == file}
        save_file(part, folder / ("consolidated.safetensors" if num_files == 1 else file))
    if index:
        content = {"metadata": {}, "weight_map": places}
        (folder / "consolidated.safetensors.index.json").write_text(json.dumps(content))
    return weights


def assert_converted(folder: Path, weights: Weights) -> None:
    written, expected = load_file(folder / "model.safetensors"), hf_weights(MODEL, weights)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("num_files", "index"), [(1, False), (3, False), (3, True)])
def test_weights_come_over_bit_for_bit(tmp_path: Path, num_files: int, index: bool):
    weights = write(tmp_path / "src", num_files, index)
    assert detect_kind(tmp_path / "src") == "mistral"
    result = convert(tmp_path / "src", tmp_path / "out")
    assert_converted(tmp_path / "out", weights)
    assert result.kind == "mistral"
    config = config_of(tmp_path / "out")
    expected = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": None,
        "head_dim": 16,
        "intermediate_size": 100,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize("window", [4096, "4096"])
def test_sliding_window_comes_along(tmp_path: Path, window: Any):
    write(tmp_path, sliding_window=window, max_seq_len=8192)
    result = convert(tmp_path / "consolidated.safetensors", tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["sliding_window"], config["max_position_embeddings"]) == (4096, 8192)
    assert not any(warning.startswith("config.json") for warning in result.warnings)


def test_first_mistral_was_published_as_torch_file(tmp_path: Path):
    weights = random_weights(MODEL)
    write_meta(tmp_path / "src", MODEL, weights)
    (tmp_path / "src" / "params.json").write_text(json.dumps(params(sliding_window="4096")))
    convert(tmp_path / "src", tmp_path / "out")
    assert_converted(tmp_path / "out", weights)
    assert config_of(tmp_path / "out")["architectures"] == ["MistralForCausalLM"]


def test_tied_model_needs_no_head(tmp_path: Path):
    weights = random_weights(MODEL)
    del weights["output.weight"]
    source = tmp_path / "src"
    source.mkdir()
    save_file(weights, source / "consolidated.safetensors")
    (source / "params.json").write_text(json.dumps(params(tied_embeddings=True)))
    convert(source, tmp_path / "out")
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"moe": {"num_experts": 8}}, UnsupportedCheckpointError, r"a mixture of experts \(moe\)"),
        ({"quantization": {"qformat_weight": "fp8_e4m3"}}, UnsupportedCheckpointError, r"\(quantization\)"),
        ({"vision_encoder": {"hidden_size": 8}}, UnsupportedCheckpointError, r"a vision encoder"),
        ({"yarn": {"factor": 4}}, UnsupportedCheckpointError, r"rotary scaling of type yarn"),
        ({"_sliding_window": [8, None]}, UnsupportedCheckpointError, r"a sliding window of its own in each"),
        ({"sliding_window": "wide"}, CorruptFileError, r"sliding_window is 'wide'; it is to be a positive"),
        ({"sliding_window": -3}, CorruptFileError, r"sliding_window is -3"),
        ({"hidden_dim": 101}, CorruptFileError, r"hidden_dim is 101, but the weights have 100"),
        ({"head_dim": 8}, CorruptFileError, r"128 rows of .*, but all heads together have 64; .*not of one"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
):
    write(tmp_path, **changes)
    with pytest.raises(error, match=message):
        plan(tmp_path)


def test_tensor_in_two_files_is_refused(tmp_path: Path):
    write(tmp_path, num_files=3)
    save_file({"norm.weight": torch.ones(64)}, tmp_path / "consolidated.safetensors")
    with pytest.raises(CorruptFileError, match=r"tensor 'norm.weight' is in consolidated-.* too"):
        plan(tmp_path)


def test_file_that_the_index_names_and_is_missing_is_named(tmp_path: Path):
    write(tmp_path, num_files=3, index=True)
    (tmp_path / "consolidated-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointNotFoundError, match=r"consolidated-00002-of-00003.safetensors: cannot be read"
    ):
        plan(tmp_path)


def test_tensor_that_the_index_names_and_no_file_has_is_named(tmp_path: Path):
    write(tmp_path, num_files=3, index=True)
    path = tmp_path / "consolidated.safetensors.index.json"
    content = json.loads(path.read_text())
    content["weight_map"]["more.weight"] = "consolidated-00001-of-00003.safetensors"
    path.write_text(json.dumps(content))
    with pytest.raises(CorruptFileError, match=r"tensor 'more.weight' is in none of the files"):
        plan(tmp_path)
