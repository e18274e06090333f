"""Converting what has Hugging Face's names: which weights are meant, and which of them are one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from meta_checkpoints import MetaModel, random_weights
from small_llama import CONFIG, small_weights, write_folder
from tune_checkpoint import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError, convert
from tune_checkpoint.checkpoint import BIN_INDEX_NAME, INDEX_NAME


def write_bin_shards(folder: Path) -> None:
    """The same model in two torch files."""
    write_folder(folder, small_weights())
    (folder / "model.safetensors").unlink()
    weights = list(small_weights().items())
    weight_map: dict[str, str] = {}
    for number in (1, 2):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        part = {name: torch.from_numpy(array) for name, array in weights[number - 1 :: 2]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / BIN_INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("shard", ["model-00002-of-00003.safetensors", "pytorch_model-00001-of-00002.bin"])
def test_a_shard_stands_for_the_whole_model(tmp_path: Path, shard: str):
    if shard.endswith(".bin"):
        write_bin_shards(tmp_path / "model")
    else:
        write_folder(tmp_path / "model", small_weights(), num_shards=3)
    convert(tmp_path / "model" / shard, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == small_weights().keys()
    assert all((written[name] == array).all() for name, array in small_weights().items())


@pytest.mark.parametrize("index", [None, {"metadata": {}, "weight_map": {"a": "other.safetensors"}}])
def test_a_shard_whose_model_nothing_names_is_refused(tmp_path: Path, index: object):
    write_folder(tmp_path / "model", small_weights(), num_shards=3)
    (tmp_path / "model" / INDEX_NAME).unlink()
    if index is not None:
        (tmp_path / "model" / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(
        UnsupportedCheckpointError,
        match=r"model-00002-of-00003.safetensors: one of 3 files of a model.*into one folder, and give that",
    ):
        convert(tmp_path / "model" / "model-00002-of-00003.safetensors", tmp_path / "out")


def test_shards_without_an_index_are_told(tmp_path: Path):
    write_folder(tmp_path / "model", small_weights(), num_shards=3)
    (tmp_path / "model" / INDEX_NAME).unlink()
    with pytest.raises(
        CheckpointNotFoundError, match=r"3 files like model-00001-of-00003.*, but not model.s"
    ):
        convert(tmp_path / "model", tmp_path / "out")


@pytest.mark.parametrize("kind", ["hf", "torch"])
@pytest.mark.parametrize("src", ["llama.gguf", "meta/consolidated.00.pth", "meta/meta.safetensors"])
def test_other_names_are_not_taken_for_hugging_faces(
    write_llama: Callable[..., Any], tmp_path: Path, src: str, kind: Any
):
    write_llama(path=tmp_path / "llama.gguf")
    (tmp_path / "meta").mkdir()
    weights = random_weights(MetaModel())
    torch.save(weights, tmp_path / "meta" / "consolidated.00.pth")
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "meta/meta.safetensors"
    )
    found = "gguf" if src.endswith("gguf") else "meta"
    with pytest.raises(
        UnsupportedCheckpointError, match=rf"{src}: .*; leave --from out, or say --from {found} \("
    ):
        convert(tmp_path / src, tmp_path / "out", kind=kind)
    assert not (tmp_path / "out").exists()


def test_every_part_of_the_configuration_names_the_new_type(tmp_path: Path):
    parts = {
        "text_config": {"dtype": "float32", "hidden_size": 32},
        "vision_config": {"torch_dtype": "float32"},
    }
    write_folder(tmp_path / "model", small_weights(), CONFIG | {"torch_dtype": "float32"} | parts)
    convert(tmp_path / "model", tmp_path / "out", dtype="bf16")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == config["vision_config"]["torch_dtype"] == "bfloat16"
    assert config["text_config"] == {"dtype": "bfloat16", "hidden_size": 32}
    assert "dtype" not in config


@pytest.mark.parametrize(
    ("changes", "scaled", "what"),
    [
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            False,
            r"as config.json says \(gptq\)",
        ),
        ({"quantization_config": "strange"}, False, r"as config.json says \(strange\)"),
        ({}, True, r"'model.norm.weight' is F8_E4M3"),
    ],
)
def test_quantised_weights_keep_their_type(tmp_path: Path, changes: dict[str, Any], scaled: bool, what: str):
    weights = {name: torch.from_numpy(array) for name, array in small_weights().items()}
    if scaled:
        weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.float8_e4m3fn)
    write_folder(tmp_path / "model", small_weights(), CONFIG | changes)
    save_file(weights, tmp_path / "model" / "model.safetensors")
    with pytest.raises(UnsupportedCheckpointError, match=rf"model: the weights are quantised \({what}\)"):
        convert(tmp_path / "model", tmp_path / "out", dtype="bf16")
    convert(tmp_path / "model", tmp_path / "out")
    written = (tmp_path / "out" / "config.json").read_bytes()
    assert written == (tmp_path / "model" / "config.json").read_bytes()


@pytest.mark.parametrize("value", [5, {"a": 1}, "LlamaForCausalLM", [3], [None]])
def test_architectures_that_are_no_list_of_names_are_refused(tmp_path: Path, value: object):
    write_folder(tmp_path / "model", small_weights(), CONFIG | {"architectures": value})
    with pytest.raises(
        CorruptFileError, match=r"config.json: architectures is .*; it is to be a list of names"
    ):
        convert(tmp_path / "model", tmp_path / "out")
