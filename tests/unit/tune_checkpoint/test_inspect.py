"""What `inspect` says of checkpoints of every kind, from headers alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gguf
import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from meta_checkpoints import MetaModel, random_weights, write_meta
from small_llama import (
    CONFIG,
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    VOCAB,
    small_weights,
    write_folder,
)
from tune_checkpoint import (
    CheckpointNotFoundError,
    CorruptFileError,
    Inspection,
    ReadFailedError,
    UnsupportedCheckpointError,
    diff,
    inspect,
    verify,
)
from tune_checkpoint._inspect import DtypeInfo, FileInfo, TensorInfo
from tune_checkpoint.facts import ModelSizes
from tune_checkpoint.foreign_json import MAX_ITEMS
from tune_checkpoint.planning import MAX_SIDE_BYTES
from tune_checkpoint.text import inspection_lines

WriteLlama = Callable[..., Any]
TIMES = "\N{MULTIPLICATION SIGN}"

SIZES = ModelSizes(LAYERS, HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HIDDEN // HEADS, VOCAB, 64)


def num_elements(weights: dict[str, np.ndarray]) -> int:
    return sum(array.size for array in weights.values())


def test_hugging_face_folder_is_described(tmp_path: Path):
    weights = small_weights(np.float16)
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.float32)
    found = inspect(write_folder(tmp_path, weights))
    assert (found.kind, found.format) == ("hf", "safetensors")
    assert (found.architecture, found.architecture_from) == ("LlamaForCausalLM", "config.json")
    assert found.sizes == SIZES
    assert found.num_parameters == num_elements(weights)
    assert found.nbytes == sum(array.nbytes for array in weights.values())
    halves = num_elements(weights) - HIDDEN
    assert found.dtypes == (
        DtypeInfo("F16", len(weights) - 1, halves, 2 * halves),
        DtypeInfo("F32", 1, HIDDEN, 4 * HIDDEN),
    )
    assert found.tied == (("lm_head.weight", "model.embed_tokens.weight"),)
    assert [file.name for file in found.files] == ["model.safetensors", "config.json", "tokenizer.json"]
    assert {t.name: t.shape for t in found.tensors} == {name: array.shape for name, array in weights.items()}
    assert found.adapter is None


def test_shards_are_named_and_a_shard_can_be_looked_at_alone(tmp_path: Path):
    weights = small_weights()
    whole = inspect(write_folder(tmp_path, weights, num_shards=3))
    assert [file.num_tensors for file in whole.files if file.num_tensors] == [10, 10, 9]
    assert whole.num_parameters == num_elements(weights)
    shard = inspect(tmp_path / "model-00002-of-00003.safetensors")
    assert (shard.kind, shard.architecture) == ("hf", "LlamaForCausalLM")
    names = list(weights)[1::3]
    assert {tensor.name for tensor in shard.tensors} == set(names)
    assert shard.num_parameters == num_elements({name: weights[name] for name in names})
    file = tmp_path / "model-00002-of-00003.safetensors"
    assert shard.files == (FileInfo(file.name, file.stat().st_size, 10),)


def test_weights_under_two_names_count_once(tmp_path: Path):
    weights = {name: torch.from_numpy(array) for name, array in small_weights().items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    found = inspect(tmp_path)
    assert (found.kind, found.format) == ("hf", "torch")
    assert found.tied == (("lm_head.weight", "model.embed_tokens.weight"),)
    assert found.num_parameters == num_elements(small_weights())
    assert found.nbytes == 4 * found.num_parameters


@pytest.mark.parametrize(
    ("family", "says", "is_tied"),
    [("gemma2", {}, True), ("gemma2", {"tie_word_embeddings": False}, False), ("llama", {}, False)],
)
def test_a_configuration_that_says_nothing_of_the_head_means_what_its_family_does(
    tmp_path: Path, family: str, says: dict[str, bool], is_tied: bool
):
    config = {key: value for key, value in CONFIG.items() if key != "tie_word_embeddings"}
    weights = small_weights()
    head = {"lm_head.weight": weights["model.embed_tokens.weight"].copy()}
    config |= {"model_type": family} | says
    without = inspect(write_folder(tmp_path / "without", weights, config))
    assert without.tied == ((("lm_head.weight", "model.embed_tokens.weight"),) if is_tied else ())
    stored = inspect(write_folder(tmp_path / "stored", weights | head, config))
    assert stored.num_parameters == num_elements(weights if is_tied else weights | head)


def test_the_embedding_of_gpt_2_is_its_head(tmp_path: Path):
    save_file({"wte.weight": np.zeros((4, 2), np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    assert inspect(tmp_path).tied == (("lm_head.weight", "wte.weight"),)


def test_a_head_that_is_stored_although_tied_is_no_parameter(tmp_path: Path):
    weights = small_weights(has_head=True)
    found = inspect(write_folder(tmp_path, weights))
    assert found.num_parameters == num_elements(weights) - VOCAB * HIDDEN
    assert found.nbytes == 4 * num_elements(weights)
    untied = inspect(write_folder(tmp_path, weights, CONFIG | {"tie_word_embeddings": False}))
    assert untied.num_parameters == num_elements(weights)


def test_constants_are_no_parameters(tmp_path: Path):
    weights = small_weights()
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    found = inspect(write_folder(tmp_path, weights | extra))
    assert found.num_parameters == num_elements(weights)
    assert len(found.tensors) == len(weights) + 1


@pytest.mark.parametrize("quant", ["F32", "Q8_0", "Q4_1"])
def test_gguf_file_is_described_as_the_gguf_package_reads_it(write_llama: WriteLlama, quant: str):
    file = write_llama(quant=quant)
    found = inspect(file.path)
    assert (found.kind, found.format) == ("gguf", "gguf")
    assert (found.architecture, found.architecture_from) == ("llama", "metadata")
    assert found.sizes == ModelSizes(2, 64, 96, 4, 2, 16, 300, 512)
    assert found.num_parameters == sum(array.size for array in file.tensors.values())
    reader = gguf.GGUFReader(file.path)
    assert {t.name: (t.dtype, t.nbytes) for t in found.tensors} == {
        tensor.name: (tensor.tensor_type.name, tensor.n_bytes) for tensor in reader.tensors
    }
    assert sum(info.nbytes for info in found.dtypes) == found.nbytes


@pytest.mark.parametrize("num_parts", [1, 2, 4])
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("embedding", ["rows", "columns"])
def test_parts_of_a_meta_checkpoint_are_counted_together(
    tmp_path: Path, num_parts: int, is_tied: bool, embedding: Literal["rows", "columns"]
):
    model = MetaModel(n_kv_heads=4, is_tied=is_tied)
    weights = random_weights(model)
    found = inspect(write_meta(tmp_path, model, weights, num_parts, embedding))
    assert (found.kind, found.architecture, found.architecture_from) == ("meta", "Llama", "params.json")
    is_shared = is_tied and embedding == "rows"  # split alike, they are one in each file
    names = {name for name in weights if not (is_shared and name == "output.weight")}
    assert found.num_parameters == sum(weights[name].numel() for name in names)
    assert found.sizes == ModelSizes(2, 64, 256, 8, 4, 8, 96)
    files = [file.name for file in found.files if file.num_tensors]
    assert files == [f"consolidated.{part:02}.pth" for part in range(num_parts)]


def test_litgpt_folder_takes_its_sizes_from_its_yaml(tmp_path: Path):
    names = ("transformer.wte.weight", "transformer.h.0.attn.qkv.weight")
    torch.save({name: torch.zeros(VOCAB, HIDDEN) for name in names}, tmp_path / "lit_model.pth")
    (tmp_path / "model_config.yaml").write_text(
        "name: small\nn_layer: 1\nn_embd: 32\nhf_config:\n  n_layer: 7\npadded_vocab_size: 40\n"
    )
    found = inspect(tmp_path)
    assert (found.kind, found.architecture, found.architecture_from) == (
        "litgpt",
        "small",
        "model_config.yaml",
    )
    assert (found.sizes.num_hidden_layers, found.sizes.vocab_size) == (1, VOCAB)


def test_what_has_no_configuration_is_guessed_from_names(tmp_path: Path):
    save_file(small_weights(), tmp_path / "some.safetensors")
    found = inspect(tmp_path / "some.safetensors")
    assert (found.architecture, found.architecture_from) == ("Llama-like", "tensor names")
    assert (found.sizes.num_hidden_layers, found.sizes.vocab_size) == (LAYERS, VOCAB)
    save_file({"x": np.zeros(3)}, tmp_path / "other.safetensors")
    assert inspect(tmp_path / "other.safetensors").architecture is None


def write_adapter(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    config = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 16,
        "use_rslora": True,
        "target_modules": ["v_proj", "q_proj"],
        "base_model_name_or_path": "some/model",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    matrices = {
        f"{prefix}.lora_A.weight": np.zeros((8, HIDDEN), np.float32),
        f"{prefix}.lora_B.weight": np.zeros((HIDDEN, 8), np.float32),
    }
    save_file(matrices, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["", "adapter_model.safetensors"])
def test_adapter_is_looked_at_happily(tmp_path: Path, name: str):
    found = inspect(write_adapter(tmp_path) / name)
    assert (found.kind, found.num_parameters) == ("adapter", 16 * HIDDEN)
    adapter = found.adapter
    assert adapter is not None
    assert (adapter.type, adapter.rank, adapter.alpha, adapter.variants) == ("LORA", 8, 16.0, ("rslora",))
    assert (adapter.targets, adapter.base_model) == (("q_proj", "v_proj"), "some/model")
    assert "adapter       LORA rslora, rank 8, alpha 16, changes q_proj, v_proj, for some/model" in (
        inspection_lines(found)
    )


def test_nonsense_in_a_configuration_is_not_repeated(tmp_path: Path):
    config = CONFIG | {"hidden_size": "big", "architectures": 7, "model_type": None, "num_hidden_layers": -1}
    found = inspect(write_folder(tmp_path, small_weights(), config))
    assert (found.architecture, found.architecture_from) == ("Llama-like", "tensor names")
    assert (found.sizes.hidden_size, found.sizes.num_hidden_layers) == (HIDDEN, LAYERS)


def test_what_cannot_be_read_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(CheckpointNotFoundError, match="nowhere: no such file or folder"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(UnsupportedCheckpointError, match="no checkpoint that can be read"):
        inspect(tmp_path)
    (write_folder(tmp_path, small_weights()) / "config.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"config.json: this is not valid JSON"):
        inspect(tmp_path)


def test_configuration_of_no_small_size_is_not_read(tmp_path: Path):
    write_folder(tmp_path, small_weights())
    os.truncate(tmp_path / "config.json", MAX_SIDE_BYTES + 1)
    with pytest.raises(
        CorruptFileError, match=r"config.json: has 100000001 bytes; a file beside the weights"
    ):
        inspect(tmp_path)
    (tmp_path / "config.json").write_bytes(b'{"a": [' + b"0," * MAX_ITEMS + b"0]}")
    with pytest.raises(UnsupportedCheckpointError, match=rf"this has .* at most {MAX_ITEMS} are"):
        inspect(tmp_path)


@pytest.mark.parametrize("escape", ["\\ud800", "\\uDFFF", "\\udc00\\ud800"])
def test_half_a_character_in_a_configuration_is_refused(tmp_path: Path, escape: str):
    (write_folder(tmp_path, small_weights()) / "config.json").write_text(f'{{"model_type": ["{escape}"]}}')
    with pytest.raises(CorruptFileError, match=r"config.json: this is not valid JSON: .* half a character"):
        inspect(tmp_path)


def test_both_halves_of_a_character_are_one(tmp_path: Path):
    (write_folder(tmp_path, small_weights()) / "config.json").write_text('{"model_type": "\\ud83d\\ude00"}')
    assert inspect(tmp_path).architecture == "\N{GRINNING FACE}"


def test_result_is_json_and_comes_back_from_it(tmp_path: Path):
    found = inspect(write_folder(tmp_path, small_weights()))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Inspection) == found


def test_tensor_infos_name_their_file(tmp_path: Path):
    write_folder(tmp_path, small_weights(), num_shards=2)
    first = inspect(tmp_path).tensors[0]
    assert isinstance(first, TensorInfo)
    assert first.file == "model-00001-of-00002.safetensors"


@pytest.mark.parametrize("name", ["model.gguf", "folder"])
def test_nothing_heavy_is_loaded(write_llama: WriteLlama, tmp_path: Path, name: str):
    write_llama()
    write_folder(tmp_path / "folder", small_weights())
    code = """
import sys
from tune_checkpoint import inspect
from tune_checkpoint.text import inspection_lines
inspection_lines(inspect(sys.argv[1]))
print(*sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert not {"numpy", "ml_dtypes", "gguf", "safetensors", "torch"} & set(loaded)


@pytest.mark.parametrize(
    "look", [inspect, verify, lambda path: diff(path, path)], ids=["inspect", "verify", "diff"]
)
def test_a_folder_that_may_not_be_read_is_an_error_that_names_it(tmp_path: Path, look: Callable[[Path], Any]):
    folder = write_folder(tmp_path / "model", small_weights())
    look(folder)  # imports what it needs
    folder.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        with pytest.raises(ReadFailedError, match=rf"{tmp_path}/.*: cannot be read: Permission denied"):
            look(folder)
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 988097824\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n" + bytes(9)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "x.pth", "x.gguf"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(POINTER, "a pointer of git-LFS and not .* `git lfs pull`"), (PAGE, "a web page and not the file")],
    ids=["pointer", "page"],
)
def test_what_stands_in_place_of_a_file_is_called_that(
    tmp_path: Path, name: str, content: bytes, message: str
):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name) if name != "x.pth" else (tmp_path / name,):
        with pytest.raises(CorruptFileError, match=rf"{name}: {message}"):
            inspect(path)
        (problem,) = verify(path).problems
        assert problem.message.startswith(f"{name}: ")
