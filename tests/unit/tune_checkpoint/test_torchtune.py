"""Converting what torchtune wrote to Hugging Face folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from meta_checkpoints import MetaModel, Weights, hf_weights, random_weights
from tune_checkpoint import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError, convert
from tune_checkpoint import plan_conversion as plan
from tune_checkpoint.kinds import detect_kind

TUNE_NAMES = {
    "attention.wq.weight": "attn.q_proj.weight",
    "attention.wk.weight": "attn.k_proj.weight",
    "attention.wv.weight": "attn.v_proj.weight",
    "attention.wo.weight": "attn.output_proj.weight",
    "feed_forward.w1.weight": "mlp.w1.weight",
    "feed_forward.w2.weight": "mlp.w2.weight",
    "feed_forward.w3.weight": "mlp.w3.weight",
    "attention_norm.weight": "sa_norm.scale",
    "ffn_norm.weight": "mlp_norm.scale",
}
"""torchtune's own names, by Meta's."""

MODEL = MetaModel(n_kv_heads=2)


@pytest.fixture
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to write, outside of what is read."""
    return tmp_path_factory.mktemp("converted") / "out"


def tune_weights(weights: Weights) -> Weights:
    """torchtune turns heads as Meta does."""
    renamed: Weights = {}
    for name, tensor in weights.items():
        parts = name.split(".", 2)
        if parts[0] == "layers":
            renamed[f"layers.{parts[1]}.{TUNE_NAMES[parts[2]]}"] = tensor
        else:
            renamed["norm.scale" if name == "norm.weight" else name] = tensor
    return renamed


def hf_config(model: MetaModel, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "intermediate_size": model.hidden_dim,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.kv_heads,
        "tie_word_embeddings": model.is_tied,
        "rope_theta": 500000.0,
    } | changes


def write_config(folder: Path, model: MetaModel = MODEL, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(model, **changes)))
    (folder / "tokenizer.json").write_text("{}")


def assert_converted(folder: Path, weights: Weights, model: MetaModel = MODEL) -> None:
    written, expected = load_file(folder / "model.safetensors"), hf_weights(model, weights)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


@pytest.mark.parametrize("file", ["meta_model_0.pt", "model-00001-of-00001.bin"])
@pytest.mark.parametrize("beside", ["config.json", "params.json"])
def test_metas_names_are_read(tmp_path: Path, out: Path, file: str, beside: str):
    weights = random_weights(MODEL)
    torch.save(weights, tmp_path / file)
    if beside == "config.json":
        write_config(tmp_path)
    else:
        (tmp_path / beside).write_text(json.dumps(MODEL.params_json()))
    assert detect_kind(tmp_path) == "torchtune"
    result = convert(tmp_path, out)
    assert_converted(out, weights)
    assert result.kind == "torchtune"
    assert result.files[1] == "config.json"


@pytest.mark.parametrize("is_tied", [False, True])
def test_torchtunes_own_names_are_read(tmp_path: Path, out: Path, is_tied: bool):
    model = MetaModel(n_kv_heads=2, is_tied=is_tied)
    weights = random_weights(model)
    renamed = tune_weights(weights)
    if is_tied:
        del renamed["output.weight"]
    torch.save(renamed, tmp_path / "torchtune_model_2.pt")
    write_config(tmp_path, model)
    convert(tmp_path / "torchtune_model_2.pt", out)
    assert_converted(out, weights, model)
    assert (out / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


def test_head_that_torchtune_added_to_a_tied_model_is_left_out(tmp_path: Path, out: Path):
    model = MetaModel(n_kv_heads=2, is_tied=True)
    weights = random_weights(model)
    torch.save(weights | {"output.weight": weights["output.weight"].clone()}, tmp_path / "meta_model_0.pt")
    write_config(tmp_path, model)
    convert(tmp_path, out)
    assert_converted(out, weights, model)


def test_head_of_its_own_is_kept_though_the_config_calls_it_tied(tmp_path: Path, out: Path):
    model = MetaModel(n_kv_heads=2, is_tied=True)
    weights = random_weights(model)
    (tmp_path / "model").mkdir()
    own = weights | {"output.weight": torch.flip(weights["output.weight"], [0])}
    torch.save(own, tmp_path / "model" / "meta_model_0.pt")
    write_config(tmp_path / "model", model)
    warnings = convert(tmp_path / "model", out).warnings
    assert_converted(out, own, MetaModel(n_kv_heads=2))
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("output.weight is not the same as the embedding" in warning for warning in warnings)


def write_hf_shards(folder: Path, epoch: int, model: MetaModel = MODEL) -> Weights:
    """Three files as torchtune names them after an epoch."""
    weights = random_weights(model)
    renamed = list(hf_weights(model, weights).items())
    for number in range(3):
        torch.save(dict(renamed[number::3]), folder / f"hf_model_{number + 1:04}_{epoch}.pt")
    return weights


def test_hugging_faces_names_are_read_from_all_files(tmp_path: Path, out: Path):
    weights = write_hf_shards(tmp_path, epoch=0)
    write_config(tmp_path)
    convert(tmp_path, out)
    assert_converted(out, weights)


def test_one_of_several_epochs_is_named_by_a_file(tmp_path: Path, out: Path):
    write_hf_shards(tmp_path, epoch=0, model=MetaModel(n_kv_heads=4))
    weights = write_hf_shards(tmp_path, epoch=1)
    write_config(tmp_path)
    message = r"2 checkpoints \(hf_model_0001_0.pt, hf_model_0001_1.pt\); name the file of one"
    with pytest.raises(UnsupportedCheckpointError, match=message):
        plan(tmp_path)
    convert(tmp_path / "hf_model_0002_1.pt", out)
    assert_converted(out, weights)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("hf_model_0002_0.pt", r"part 2 of the checkpoint of hf_model_0001_0.pt is missing"),
        ("hf_model_0001_0.pt", r"part 1 of the checkpoint"),
    ],
)
def test_missing_file_is_named(tmp_path: Path, gone: str, message: str):
    write_hf_shards(tmp_path, epoch=0)
    write_config(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(CorruptFileError, match=message):
        plan(tmp_path)


def test_layers_that_no_file_has_are_missed(tmp_path: Path):
    write_hf_shards(tmp_path, epoch=0)
    write_config(tmp_path, num_hidden_layers=3)
    with pytest.raises(CorruptFileError, match=r"in the files of this checkpoint: 2, in config.json: 3"):
        plan(tmp_path)


def test_tensor_in_two_files_is_refused(tmp_path: Path):
    write_hf_shards(tmp_path, epoch=0)
    torch.save({"model.norm.weight": torch.ones(64)}, tmp_path / "hf_model_0004_0.pt")
    write_config(tmp_path)
    with pytest.raises(CorruptFileError, match=r"'model.norm.weight' is in hf_model_0002_0.pt too"):
        plan(tmp_path)


def test_error_says_what_to_put_where_when_nothing_tells_the_heads(tmp_path: Path):
    torch.save(random_weights(MODEL), tmp_path / "meta_model_0.pt")
    with pytest.raises(
        CheckpointNotFoundError, match=r"neither config.json nor params.json.*copy the file from"
    ):
        plan(tmp_path)


def test_folder_without_a_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointNotFoundError, match=r"no meta_model_N.pt, hf_model_NNNN_N.pt"):
        plan(tmp_path, kind="torchtune")


@pytest.mark.parametrize(
    ("config", "weights", "error", "message"),
    [
        (
            {"architectures": ["GemmaForCausalLM"], "model_type": "gemma"},
            {},
            UnsupportedCheckpointError,
            "architecture 'GemmaForCausalLM'; LlamaForCausalLM and MistralForCausalLM can be converted from",
        ),
        (
            {},
            {"layers.0.attn.q_norm.scale": torch.ones(8)},
            UnsupportedCheckpointError,
            r"\(layers.0.attn.q_norm",
        ),
        ({}, {"norm.scale": None}, CorruptFileError, r"tensor 'norm.scale' is missing"),
        (
            {},
            {"output.weight": None},
            CorruptFileError,
            "'output.weight' is missing, but tie_word_embeddings",
        ),
        ({"num_attention_heads": 4}, {}, CorruptFileError, r"shape \[16, 64\].*make it \[32, 64\]"),
        ({"num_attention_heads": None}, {}, CorruptFileError, "num_attention_heads is None"),
        ({"num_key_value_heads": 3}, {}, CorruptFileError, "8 query heads do not share 3"),
        ({"head_dim": 5}, {}, CorruptFileError, "a head of 5 elements"),
        ({"vocab_size": 97}, {}, CorruptFileError, "vocab_size is 97, but the weights have 96"),
        ({"hidden_size": "64"}, {}, CorruptFileError, "hidden_size is '64'; it is to be a positive whole"),
    ],
)
def test_weights_and_config_of_different_models_are_refused(
    tmp_path: Path, config: dict[str, Any], weights: dict[str, Any], error: type[Exception], message: str
):
    changed = tune_weights(random_weights(MODEL)) | weights
    torch.save({name: tensor for name, tensor in changed.items() if tensor is not None}, tmp_path / "x.pt")
    write_config(tmp_path, **config)
    with pytest.raises(error, match=message):
        plan(tmp_path / "x.pt", kind="torchtune")
