"""What `verify` holds a checkpoint against: its configuration, its tokenizer, a list of checksums."""

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from meta_checkpoints import MetaModel, random_weights, write_meta
from small_llama import CONFIG, HIDDEN, VOCAB, small_weights, write_folder
from tune_checkpoint import verify
from tune_checkpoint.planning import MAX_SIDE_BYTES
from tune_checkpoint.text import verification_lines

WriteLlama = Callable[..., Any]
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def messages(path: Path, **options: Any) -> list[str]:
    """What is wrong, after checking that `ok` says the same."""
    found = verify(path, **options)
    assert found.ok is not bool(found.problems)
    return [problem.message for problem in found.problems]


def test_wrong_missing_and_unknown_tensors_are_all_named(tmp_path: Path):
    weights = small_weights()
    weights[Q_PROJ] = np.zeros((HIDDEN, 7), np.float32)
    weights["model.layers.0.mlp.up_proj.bias"] = np.zeros(3, np.float32)
    del weights["model.norm.weight"]
    assert messages(write_folder(tmp_path, weights)) == [
        f"model.safetensors: tensor '{Q_PROJ}' has shape [32, 7]; config.json makes it [32, 32]",
        "model.safetensors: tensor 'model.layers.0.mlp.up_proj.bias' is no part of the model that "
        "config.json describes",
        "config.json: tensor 'model.norm.weight' is to be [32], but is in no file",
    ]


def test_a_head_is_needed_where_the_embedding_is_not_tied(tmp_path: Path):
    untied = CONFIG | {"tie_word_embeddings": False}
    assert messages(write_folder(tmp_path, small_weights(), untied)) == [
        "config.json: tensor 'lm_head.weight' is to be [40, 32], but is in no file"
    ]
    assert messages(write_folder(tmp_path, small_weights(has_head=True), untied)) == []
    assert (
        messages(write_folder(tmp_path, small_weights(has_head=True))) == []
    )  # tied, and stored all the same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_hidden_layers": 10**12},
            "num_hidden_layers is 1000000000000, but there are 29 tensors in all",
        ),
        ({"hidden_size": None}, "hidden_size is None; it is to be a positive whole number"),
        ({"num_attention_heads": -4}, "num_attention_heads is -4; it is to be"),
        ({"head_dim": "8"}, "head_dim is '8'; it is to be"),
    ],
)
def test_impossible_sizes_are_a_problem_of_the_configuration(
    tmp_path: Path, change: dict[str, Any], message: str
):
    (found,) = messages(write_folder(tmp_path, small_weights(), CONFIG | change))
    assert found.startswith(f"config.json: {message}")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "no config.json"),
        (CONFIG | {"model_type": "mamba"}, "architecture 'mamba' is not known"),
        (CONFIG | {"quantization_config": {"bits": 4}}, "quantised weights"),
        (CONFIG | {"architectures": ["LlamaForSequenceClassification"]}, "not a model that generates text"),
    ],
)
def test_shapes_that_are_not_known_are_not_checked_and_it_says_so(
    tmp_path: Path, config: dict[str, Any], reason: str
):
    found = verify(write_folder(tmp_path, {"odd.weight": np.zeros(3)}, config))
    assert found.ok
    assert found.not_checked == (f"shapes: {reason}",)


@pytest.mark.parametrize("extra", [-20, 0, 2])
def test_tokens_without_a_row_in_the_embedding_are_found(tmp_path: Path, extra: int):
    folder = write_folder(tmp_path, small_weights(), num_tokens=VOCAB + extra)
    expected = (
        f"tokenizer.json: token 't{VOCAB}' has the id {VOCAB}, but the embedding has {VOCAB} rows "
        "(model.embed_tokens.weight); the tokenizer is another model's, or the embedding was not resized"
    )
    assert messages(folder) == ([expected] if extra > 0 else [])
    assert verify(folder).notes == ()


@pytest.mark.parametrize("is_in_vocabulary", [False, True])
def test_an_added_token_beyond_the_embedding_is_noted(tmp_path: Path, is_in_vocabulary: bool):
    """As `<image_soft_token>` is in the folder of Gemma 3 1B, which reads no images."""
    folder = write_folder(tmp_path, small_weights(), num_tokens=VOCAB + 1)
    if is_in_vocabulary:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["model"]["vocab"]["<end>"] = VOCAB
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert messages(folder) == []
    found = verify(folder)
    assert found.notes == (
        f"tokenizer.json: token '<end>' was added with the id {VOCAB}, but the embedding has {VOCAB} rows "
        "(model.embed_tokens.weight); the model cannot read it",
    )
    assert verification_lines(found)[-2:] == [
        "note          tokenizer.json: token '<end>' was added with the id 40,",
        "              but the embedding has 40 rows (model.embed_tokens.weight); the model cannot read it",
    ]


def test_tokenizer_that_is_no_json_or_of_unigrams_is_read(tmp_path: Path):
    folder = write_folder(tmp_path, small_weights())
    unigrams = {"model": {"type": "Unigram", "vocab": [["a", -1.0]] * (VOCAB + 1)}}
    (folder / "tokenizer.json").write_text(json.dumps(unigrams))
    assert messages(folder)[0].startswith("tokenizer.json: token 'number 40' has the id 40")
    (folder / "tokenizer.json").write_text("{")
    assert messages(folder)[0].startswith("tokenizer.json: cannot be read: ")


@pytest.mark.parametrize("num_tokens", [256, 300])
def test_tokens_of_a_tokenizer_model_are_counted_too(tmp_path: Path, num_tokens: int):
    folder = write_folder(tmp_path, small_weights())
    (folder / "tokenizer.json").unlink()
    ranks = [bytes([n]) if n < 256 else b"token %d" % n for n in range(num_tokens)]
    lines = [base64.b64encode(token) + b" %d\n" % n for n, token in enumerate(ranks)]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))
    last = num_tokens + 256 - 1  # Llama 3 has 256 special tokens behind them
    (message,) = messages(folder)
    assert message.startswith(f"tokenizer.model: token 'number {last}' has the id {last}, but the embedding")
    (folder / "tokenizer.model").write_bytes(b"nonsense")
    found = verify(folder)
    assert found.ok
    assert found.not_checked == (
        "tokenizer: no tokenizer.json, and a tokenizer.model of a kind that cannot be read",
    )


def write_sums(folder: Path) -> None:
    """As coreutils has it."""
    names = sorted(path.name for path in folder.iterdir())
    done = subprocess.run(["sha256sum", *names], cwd=folder, check=True, capture_output=True)
    (folder / "SHA256SUMS").write_bytes(done.stdout)


def test_flipped_byte_is_found_by_the_manifest_alone(tmp_path: Path):
    folder = write_folder(tmp_path, small_weights(), num_shards=2)
    (folder / "odd\\name\nhere.txt").write_text("odd")
    write_sums(folder)
    found = verify(folder)
    assert found.ok, found.problems
    assert "SHA256SUMS" in found.checked
    path = folder / "model-00002-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    digest, before = hashlib.sha256(content).hexdigest(), hashlib.sha256()
    content[-4] ^= 1
    before.update(content)
    assert messages(folder) == [
        f"{path.name}: has changed: its SHA-256 is {digest}, not {before.hexdigest()}"
    ]
    assert messages(path) == messages(folder)  # also where only this file is looked at
    assert messages(folder / "model-00001-of-00002.safetensors") == []


def test_manifest_that_leaves_out_or_leads_out_is_reported(tmp_path: Path):
    folder = write_folder(tmp_path / "m", small_weights())
    (tmp_path / "secret").write_text("secret")
    digest = "0" * 64
    lines = [
        f"{digest}  gone.json",
        f"{digest} *../secret",
        f"{digest}  /etc/hostname",
        "nonsense",
        f"{digest}  .",
        f"{digest}  ./gone.json",
        f"{'1' * 64}  gone.json",
        "",
    ]
    (folder / "SHA256SUMS").write_text("\n".join(lines))
    assert messages(folder) == [
        "SHA256SUMS: line 2: '../secret' leads out of the folder; it was not read",
        "SHA256SUMS: line 3: '/etc/hostname' leads out of the folder; it was not read",
        "SHA256SUMS: line 4 is not a checksum and a file name",
        "SHA256SUMS: line 7 contradicts another about 'gone.json'",
        "model.safetensors: is not in SHA256SUMS",
        "gone.json: is missing, and SHA256SUMS lists it",
        ".: is no regular file",
    ]


def test_adapter_is_checked_pair_by_pair(tmp_path: Path):
    prefix = "base_model.model.model.layers.0.self_attn"
    shapes = {
        f"{prefix}.q_proj.lora_A.weight": (4, 32),
        f"{prefix}.q_proj.lora_B.weight": (32, 3),
        f"{prefix}.k_proj.lora_A.weight": (5, 32),
        f"{prefix}.k_proj.lora_B.weight": (16, 5),
        f"{prefix}.v_proj.lora_B.weight": (16, 4),
    }
    save_file(
        {name: np.ones(shape) for name, shape in shapes.items()}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    start = "adapter_model.safetensors: tensor "
    assert [message.removeprefix(start).replace(prefix, "*") for message in sorted(messages(tmp_path))] == [
        "'*.k_proj.lora_A.weight' has rank 5; adapter_config.json says 4",
        "'*.q_proj.lora_B.weight' has shape [32, 3], which does not fit [4, 32] of '*.q_proj.lora_A.weight'",
        "'*.v_proj.lora_B.weight' has no counterpart '*.v_proj.lora_A.weight'",
    ]


def test_meta_checkpoint_is_held_against_its_parameters(tmp_path: Path):
    model = MetaModel()
    folder = write_meta(tmp_path, model, random_weights(model), num_parts=2)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"all of them": 95}}}))
    found = verify(folder)
    assert (found.ok, found.checked) == (True, ("headers", "shapes (llama)", "finite values"))
    second = torch.load(folder / "consolidated.01.pth")
    second["layers.1.attention.wo.weight"][5, 6] = torch.nan
    torch.save(second, folder / "consolidated.01.pth")
    assert messages(folder) == [
        "consolidated.01.pth: tensor 'layers.1.attention.wo.weight' has 1 NaN of 2,048 values; "
        "the first is at [5, 6]"
    ]
    second["layers.1.attention.wo.weight"] = torch.zeros(3, 3, dtype=torch.bfloat16)
    torch.save(second, folder / "consolidated.01.pth")
    (message,) = messages(folder)
    assert message.startswith("consolidated.01.pth: tensor 'layers.1.attention.wo.weight' is BF16 [3, 3]")


def test_tokenizer_of_no_small_size_is_told_and_not_read(tmp_path: Path):
    os.truncate(write_folder(tmp_path, small_weights()) / "tokenizer.json", MAX_SIDE_BYTES + 1)
    (message,) = messages(tmp_path)
    assert message.startswith("tokenizer.json: has 100000001 bytes; a file beside the weights is read up to")
