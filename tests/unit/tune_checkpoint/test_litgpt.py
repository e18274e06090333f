"""Converting LitGPT checkpoints to Hugging Face folders."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file

from meta_checkpoints import MetaModel, Weights, hf_weights, random_weights
from tune_checkpoint import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptFileError,
    UnsupportedCheckpointError,
    convert,
)
from tune_checkpoint import plan_conversion as plan
from tune_checkpoint.facts import read_facts
from tune_checkpoint.kinds import detect_kind
from tune_checkpoint.litgpt.flat_yaml import read_flat_yaml

LAYER_NAMES = {
    "self_attn.o_proj.weight": "attn.proj.weight",
    "mlp.gate_proj.weight": "mlp.fc_1.weight",
    "mlp.up_proj.weight": "mlp.fc_2.weight",
    "mlp.down_proj.weight": "mlp.proj.weight",
    "input_layernorm.weight": "norm_1.weight",
    "post_attention_layernorm.weight": "norm_2.weight",
}
TOP_NAMES = {
    "model.embed_tokens.weight": "transformer.wte.weight",
    "model.norm.weight": "transformer.ln_f.weight",
    "lm_head.weight": "lm_head.weight",
}
MODEL = MetaModel(n_kv_heads=2, hidden_dim=80)


@pytest.fixture
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to write, outside of what is read."""
    return tmp_path_factory.mktemp("converted") / "out"


def config(model: MetaModel = MODEL, **changes: Any) -> dict[str, Any]:
    """What LitGPT writes: every setting there is."""
    return {
        "name": "Llama-3.2-1B",
        "hf_config": {"name": "Llama-3.2-1B", "org": "meta-llama"},
        "block_size": 131072,
        "n_layer": model.n_layers,
        "n_embd": model.dim,
        "vocab_size": 90,
        "padding_multiple": 512,
        "padded_vocab_size": model.vocab_size,
        "norm_class_name": "RMSNorm",
        "norm_eps": 1e-05,
        "norm_qk": False,
        "post_attention_norm": False,
        "post_mlp_norm": False,
        "parallel_residual": False,
        "shared_attention_norm": False,
        "n_head": model.n_heads,
        "head_size": model.head_dim,
        "n_query_groups": model.kv_heads,
        "attn_bias": False,
        "attention_scores_scalar": None,
        "sliding_window_size": None,
        "sliding_window_indices": None,
        "rope_base": 500000,
        "rotary_percentage": 1.0,
        "rope_condense_ratio": 1,
        "rope_adjustments": None,
        "intermediate_size": model.hidden_dim,
        "bias": False,
        "mlp_class_name": "LLaMAMLP",
        "gelu_approximate": "none",
        "n_expert": 0,
        "scale_embeddings": False,
        "lm_head_bias": False,
    } | changes


def lit_weights(model: MetaModel, weights: Weights, grouped: bool = False) -> Weights:
    """LitGPT keeps Hugging Face's order within heads and has queries, keys and values in one matrix."""
    hf = hf_weights(model, weights)
    renamed = {lit: hf[name] for name, lit in TOP_NAMES.items() if name in hf}
    for layer in range(model.n_layers):
        at, lit_at = f"model.layers.{layer}.", f"transformer.h.{layer}."
        renamed |= {lit_at + lit: hf[at + name] for name, lit in LAYER_NAMES.items()}
        q, k, v = (hf[f"{at}self_attn.{letter}_proj.weight"] for letter in "qkv")
        if grouped:
            groups = zip(*(part.chunk(model.kv_heads) for part in (q, k, v)), strict=True)
            renamed[lit_at + "attn.attn.weight"] = torch.cat([part for group in groups for part in group])
        else:
            renamed[lit_at + "attn.qkv.weight"] = torch.cat([q, k, v])
    return renamed


def write(folder: Path, weights: Weights, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    torch.save({"model": weights}, folder / "lit_model.pth")
    (folder / "model_config.yaml").write_text(yaml.dump(config(**changes)))


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("n_kv_heads", [None, 2, 1])
def test_weights_come_over_bit_for_bit(tmp_path: Path, out: Path, grouped: bool, n_kv_heads: int | None):
    model = MetaModel(n_kv_heads=n_kv_heads, hidden_dim=80)
    weights = random_weights(model)
    write(tmp_path / "src", lit_weights(model, weights, grouped), model=model)
    assert detect_kind(tmp_path / "src") == "litgpt"
    convert(tmp_path / "src", out)
    written, expected = load_file(out / "model.safetensors"), hf_weights(model, weights)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_matrix_whose_columns_lie_apart_is_read_by_rows(tmp_path: Path, out: Path):
    weights = lit_weights(MODEL, random_weights(MODEL))
    name = "transformer.h.0.attn.qkv.weight"
    write(tmp_path / "src", weights | {name: weights[name].T.contiguous().T})
    convert(tmp_path / "src" / "lit_model.pth", out)
    written = load_file(out / "model.safetensors")
    assert torch.equal(written["model.layers.0.self_attn.k_proj.weight"], weights[name][64:80])


def test_config_says_what_model_config_does(tmp_path: Path, out: Path):
    write(tmp_path, lit_weights(MODEL, random_weights(MODEL)))
    convert(tmp_path, out)
    expected = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    written = config_of(out)
    assert {key: written[key] for key in expected} == expected


LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 8192}


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({"rope_condense_ratio": 2}, {"rope_type": "linear", "factor": 2.0}),
        ({"rope_adjustments": {"factor": 8.0}}, {"rope_type": "linear", "factor": 8.0}),
        (
            {"rope_adjustments": LLAMA3},
            {
                "rope_type": "llama3",
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        ),
    ],
)
def test_rotary_scaling_comes_along(
    tmp_path: Path, out: Path, changes: dict[str, Any], scaling: dict[str, Any]
):
    write(tmp_path, lit_weights(MODEL, random_weights(MODEL)), **changes)
    convert(tmp_path, out)
    assert config_of(out)["rope_scaling"] == scaling


def test_files_of_the_trained_model_come_along(tmp_path: Path, out: Path):
    write(tmp_path, lit_weights(MODEL, random_weights(MODEL)))
    (tmp_path / "config.json").write_text('{"bos_token_id": 7, "eos_token_id": [8, 9], "rope_theta": 1.0}')
    (tmp_path / "tokenizer.json").write_text("{}")
    result = convert(tmp_path, out, dtype="fp16")
    files = ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json")
    assert result.files == files
    written = config_of(out)
    assert (written["bos_token_id"], written["eos_token_id"]) == (7, [8, 9])
    assert (written["rope_theta"], written["dtype"]) == (500000.0, "float16")


def test_head_that_is_the_embedding_is_written_once(tmp_path: Path, out: Path):
    model = MetaModel(n_kv_heads=2, hidden_dim=80, is_tied=True)
    weights = lit_weights(model, random_weights(model))
    write(tmp_path, weights | {"lm_head.weight": weights["transformer.wte.weight"]})
    convert(tmp_path, out)
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    assert config_of(out)["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mlp_class_name": "GptNeoxMLP"}, UnsupportedCheckpointError, "mlp_class_name is 'GptNeoxMLP'"),
        ({"mlp_class_name": "GemmaMLP"}, UnsupportedCheckpointError, "mlp_class_name is 'GemmaMLP'"),
        ({"mlp_class_name": "LLaMAMoE"}, UnsupportedCheckpointError, "mlp_class_name is 'LLaMAMoE'"),
        ({"norm_class_name": "LayerNorm"}, UnsupportedCheckpointError, "norm_class_name is 'LayerNorm'"),
        ({"attn_bias": True}, UnsupportedCheckpointError, "attn_bias is True"),
        ({"rotary_percentage": 0.25}, UnsupportedCheckpointError, "rotary_percentage is 0.25"),
        ({"latent_attention": {"q_lora_rank": 8}}, UnsupportedCheckpointError, "latent_attention is 'set'"),
        (
            {"rope_adjustments": {"beta_fast": 3}},
            UnsupportedCheckpointError,
            "rope_adjustments has beta_fast",
        ),
        ({"rope_adjustments": [1]}, UnsupportedCheckpointError, "rope_adjustments has no table"),
        (
            {"rope_adjustments": LLAMA3, "rope_condense_ratio": 4},
            UnsupportedCheckpointError,
            "both rope_condense_ratio and rope_adjustments",
        ),
        ({"n_head": 0}, CorruptFileError, "n_head is 0; it is to be a positive whole number"),
        ({"n_layer": 3}, CorruptFileError, r"'transformer.h.2.attn.qkv.weight' is missing"),
        ({"n_layer": 1}, UnsupportedCheckpointError, r"7 tensors are no part of a Llama model"),
        ({"n_query_groups": 3}, CorruptFileError, "8 query heads .* do not share 3"),
        (
            {"n_query_groups": 4},
            CorruptFileError,
            r"shape \[96, 64\]; model_config.yaml makes it \[128, 64\]",
        ),
        ({"head_size": 3}, CorruptFileError, "a head of 3 elements"),
        ({"norm_eps": "small"}, CorruptFileError, "norm_eps is 'small'"),
        ({"rope_base": -1}, CorruptFileError, "rope_base is -1"),
    ],
)
def test_what_is_no_llama_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
):
    write(tmp_path, lit_weights(MODEL, random_weights(MODEL)), **changes)
    with pytest.raises(error, match=message):
        plan(tmp_path)


def test_weights_of_lora_are_refused_with_what_to_do(tmp_path: Path):
    weights = lit_weights(MODEL, random_weights(MODEL))
    write(tmp_path, weights | {"transformer.h.0.attn.qkv.lora_A": torch.ones(2, 2)})
    with pytest.raises(UnsupportedCheckpointError, match=r"has LoRA weights .*litgpt merge_lora"):
        plan(tmp_path)


def test_missing_config_is_named(tmp_path: Path):
    write(tmp_path, lit_weights(MODEL, random_weights(MODEL)))
    (tmp_path / "model_config.yaml").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"model_config.yaml: cannot be read"):
        plan(tmp_path)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abzAZ019._-", max_size=8)
)
KEYS = st.text("abz_", min_size=1, max_size=6)
TABLES = st.dictionaries(KEYS, SCALARS, min_size=1, max_size=3)


@given(st.dictionaries(KEYS, SCALARS | TABLES | st.lists(SCALARS, max_size=3), min_size=1, max_size=6))
@example({"a": "-.5"})
@example({"a": ".5"})
def test_what_pyyaml_writes_is_read(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]):
    path = tmp_path_factory.mktemp("yaml") / "c.yaml"
    path.write_text(yaml.dump(content))
    read = read_flat_yaml(path)
    for key, value in content.items():
        if isinstance(value, dict):
            assert read.tables[key] == value
        elif isinstance(value, list):
            assert key in read.lists or (not value and read.values[key] is None)
        else:
            assert read.values[key] == value
            assert type(read.values[key]) is type(value)


def test_quoted_texts_and_comments_are_read(tmp_path: Path):
    lines = ["# made by hand", "a: 'it''s # here'", 'b: "two"', "c: 3 # three", "", "---", "d:"]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    expected = {"a": "it's # here", "b": "two", "c": 3, "d": None}
    assert read_flat_yaml(tmp_path / "c.yaml").values == expected


@given(st.text() | st.binary().map(lambda content: content.decode("latin-1")))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str):
    path = tmp_path_factory.mktemp("yaml") / "c.yaml"
    path.write_bytes(text.encode("utf-8", "replace"))
    try:
        read_flat_yaml(path)
    except CheckpointError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: 1\na: 2\n", r"line 2: a stands there twice"),
        (b"a:\n  b: 1\n  b: 2\n", r"line 3: a.b stands there twice"),
        (b"a: 1\n  b: 2\n", r"line 2: '  b: 2' is not of the form"),
        (b"a: {b: 1}\n", r"line 1: '\{b: 1\}' is not a single value"),
        (b"a: 'b\n", r"line 1: .* is a text that is not understood"),
        (b"just words\n", r"line 1: 'just words' is not of the form"),
        (b"a: \xff\n", r"byte 3 is not UTF-8"),
        (b"# " + b"a" * 1_000_001, r"longer than 1000000 bytes"),
    ],
)
def test_line_that_is_not_understood_is_named(tmp_path: Path, text: bytes, message: str):
    (tmp_path / "c.yaml").write_bytes(text)
    with pytest.raises(CorruptFileError, match=message):
        read_flat_yaml(tmp_path / "c.yaml")


def test_of_a_file_that_is_no_list_of_settings_only_the_start_is_held(tmp_path: Path):
    path = tmp_path / "model_config.yaml"
    path.write_text("name: x\n")
    os.truncate(path, 100_000_000)
    tracemalloc.start()
    with pytest.raises(CorruptFileError, match="longer than"):
        read_flat_yaml(path)
    assert read_facts(tmp_path, "litgpt", ()).architecture == "x"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
