"""Making Meta's format: from Hugging Face folders, from GGUF, and from Meta's own in several parts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from meta_checkpoints import MetaModel, Weights, hf_weights, random_weights, write_meta
from tune_checkpoint import UnsupportedCheckpointError, convert, open_checkpoint, plan_conversion
from tune_checkpoint.meta.ffn import feed_forward_size, find_multiple
from tune_checkpoint.plan import Plan

MODELS = {
    "heads": MetaModel(),
    "groups": MetaModel(n_kv_heads=2),
    "tied": MetaModel(n_kv_heads=2, is_tied=True),
    "fp32": MetaModel(dtype=torch.float32),
    "wide": MetaModel(hidden_dim=232),
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


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
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": model.is_tied,
    } | changes


def write_hf(folder: Path, model: MetaModel, **changes: Any) -> Weights:
    """A Hugging Face folder; gives the model under Meta's names."""
    weights = random_weights(model)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in hf_weights(model, weights).items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hf_config(model, **changes)))
    return weights


def params_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "params.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_torch_loads_what_metas_program_expects(tmp_path: Path, name: str):
    model = MODELS[name]
    weights = write_hf(tmp_path / "hf", model)
    result = convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    assert result.files == ("consolidated.00.pth", "params.json")
    loaded = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True, mmap=True)
    assert loaded.keys() == weights.keys()
    for tensor_name, tensor in weights.items():
        assert torch.equal(loaded[tensor_name], tensor), tensor_name
    params = params_of(tmp_path / "meta")
    width = feed_forward_size(params["dim"], params["multiple_of"], params.get("ffn_dim_multiplier"))
    assert width == model.hidden_dim
    assert params["n_kv_heads"] == model.kv_heads


@pytest.mark.parametrize("name", MODELS)
def test_way_there_and_back_changes_nothing(tmp_path: Path, name: str):
    write_hf(tmp_path / "hf", MODELS[name])
    convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    convert(tmp_path / "meta", tmp_path / "back")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("hf", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[tensor], after[tensor]) for tensor in before)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: config[key] for key in hf_config(MODELS[name])} == hf_config(MODELS[name])


def test_head_that_is_the_embedding_is_stored_once(tmp_path: Path):
    write_hf(tmp_path / "hf", MODELS["tied"])
    convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    loaded = torch.load(tmp_path / "meta" / "consolidated.00.pth")
    assert loaded["output.weight"].data_ptr() == loaded["tok_embeddings.weight"].data_ptr()


def test_parts_are_joined_without_touching_the_order_of_heads(tmp_path: Path):
    model = MODELS["groups"]
    weights = random_weights(model)
    write_meta(tmp_path / "parts", model, weights, num_parts=4)
    plan = plan_conversion(tmp_path / "parts", to="meta", dtype="fp32")
    assert {type(op).__name__ for tensor in plan.tensors for op in tensor.ops} == {"Cast"}
    convert(tmp_path / "parts", tmp_path / "one", to="meta")
    loaded = torch.load(tmp_path / "one" / "consolidated.00.pth")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_gguf_becomes_metas_format(write_llama: Callable[..., Any], tmp_path: Path):
    file = write_llama(tied=False, feed_forward=256, quant="F16")
    convert(file.path, tmp_path / "meta", to="meta", dtype="bf16")
    convert(tmp_path / "meta", tmp_path / "back")
    convert(file.path, tmp_path / "hf", dtype="bf16")
    before, after = open_checkpoint(tmp_path / "hf"), open_checkpoint(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(bytes(before[name].buffer()) == bytes(after[name].buffer()) for name in before)


@pytest.mark.parametrize(("factor", "is_tied"), [(8.0, False), (32.0, True), (32.0, False), (4.0, True)])
def test_rotary_scaling_comes_back(tmp_path: Path, factor: float, is_tied: bool):
    scaling = LLAMA3_SCALING | {"factor": factor}
    write_hf(tmp_path / "hf", MetaModel(is_tied=is_tied), rope_scaling=scaling, rope_theta=500000.0)
    result = convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    is_usual = factor == (32.0 if is_tied else 8.0)
    assert any("rope_scaling_factor" in warning for warning in result.warnings) is not is_usual
    assert ("rope_scaling_factor" in params_of(tmp_path / "meta")) is not is_usual
    convert(tmp_path / "meta", tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (config["rope_scaling"], config["max_position_embeddings"]) == (scaling, 131072)


@pytest.mark.parametrize(("context", "comes_back"), [(256, 4096), (4096, 4096), (131072, 131072)])
def test_number_of_tokens_that_would_come_back_as_another_is_warned_of(
    tmp_path: Path, context: int, comes_back: int
):
    rope = {"rope_scaling": LLAMA3_SCALING, "rope_theta": 500000.0} if context > 4096 else {}
    write_hf(tmp_path / "hf", MetaModel(), max_position_embeddings=context, **rope)
    result = convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    lost = [text for text in result.warnings if "no place for max_position_embeddings" in text]
    assert [f"which is {context};" in text and text.endswith(f"{comes_back}") for text in lost] == (
        [] if context == comes_back else [True]
    )
    convert(tmp_path / "meta", tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["max_position_embeddings"] == comes_back


def test_words_of_transformers_5_are_read(tmp_path: Path):
    rope = LLAMA3_SCALING | {"rope_theta": 500000.0}
    write_hf(tmp_path / "hf", MetaModel(), rope_parameters=rope, rope_theta=None)
    convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    params = params_of(tmp_path / "meta")
    assert (params["rope_theta"], params["use_scaled_rope"]) == (500000.0, True)


def test_tokenizer_and_licence_come_along(tmp_path: Path):
    write_hf(tmp_path / "hf", MetaModel())
    for name in ("tokenizer.model", "LICENSE", "tokenizer.json", "generation_config.json"):
        (tmp_path / "hf" / name).write_text("{}")
    result = convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    assert set(result.files) == {"consolidated.00.pth", "params.json", "tokenizer.model", "LICENSE"}
    assert result.warnings == ()


def test_metas_tokenizer_is_found_where_the_hub_has_it(tmp_path: Path):
    write_hf(tmp_path, MetaModel())
    (tmp_path / "tokenizer.model").write_text("another")
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "tokenizer.model").write_text("Meta's")
    plan = plan_conversion(tmp_path, to="meta")
    assert {file.name: file.content for file in plan.files}["tokenizer.model"] == b"Meta's"
    assert plan.warnings == ()


def test_missing_tokenizer_is_named_in_one_warning(tmp_path: Path):
    write_hf(tmp_path / "hf", MetaModel())
    (warning,) = plan_conversion(tmp_path / "hf", to="meta").warnings
    assert warning.startswith("tokenizer.model: the source has none")


def test_mistral_without_a_window_can_be(tmp_path: Path):
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    weights = write_hf(tmp_path / "hf", MetaModel(), **mistral, sliding_window=4096)
    convert(tmp_path / "hf", tmp_path / "meta", to="meta")
    assert torch.load(tmp_path / "meta" / "consolidated.00.pth").keys() == weights.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
            r"architecture 'Qwen2ForCausalLM'; .* can be put into Meta's",
        ),
        ({"architectures": ["LlamaForSequenceClassification"]}, "'LlamaForSequenceClassification'"),
        ({"attention_bias": True}, r"biases \(attention_bias\)"),
        ({"mlp_bias": True}, r"biases \(mlp_bias\)"),
        ({"hidden_act": "gelu"}, r"activation 'gelu' \(hidden_act\)"),
        ({"quantization_config": {"bits": 4}}, r"quantised weights \(quantization_config\)"),
        ({"head_dim": 16}, r"heads of 16 elements \(head_dim\).*hidden_size / heads, 8"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rotary scaling .*linear"),
        ({"rope_scaling": LLAMA3_SCALING | {"high_freq_factor": 2.0}}, "rotary scaling"),
        (
            {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 100},
            "a sliding window of 100 tokens",
        ),
        ({"num_hidden_layers": 3}, r"'model.layers.2.self_attn.q_proj.weight' is missing, which becomes"),
        ({"num_hidden_layers": 1}, r"9 tensors have no place in it \(model.layers.1"),
    ],
)
def test_what_metas_format_has_no_place_for_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
):
    write_hf(tmp_path, MetaModel(), **changes)
    with pytest.raises(UnsupportedCheckpointError, match=message):
        plan_conversion(tmp_path, to="meta")


def test_config_is_needed(tmp_path: Path):
    write_hf(tmp_path, MetaModel())
    (tmp_path / "config.json").unlink()
    with pytest.raises(UnsupportedCheckpointError, match=r"no config.json, from which params.json is made"):
        plan_conversion(tmp_path, to="meta")


def test_plan_serialises(tmp_path: Path):
    write_hf(tmp_path, MODELS["tied"])
    plan = plan_conversion(tmp_path, to="meta")
    assert plan.target == "meta"
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


@pytest.mark.parametrize(
    ("hidden_size", "intermediate_size", "multiple_of", "multiplier"),
    [
        (4096, 11008, 256, None),  # Llama 2 7B
        (8192, 28672, 4096, 1.3),  # Llama 2 70B
        (4096, 14336, 1024, 1.3),  # Llama 3 8B
        (2048, 8192, 256, 1.5),  # Llama 3.2 1B
    ],
)
def test_published_models_have_the_width_that_their_params_make(
    hidden_size: int, intermediate_size: int, multiple_of: int, multiplier: float | None
):
    assert feed_forward_size(hidden_size, multiple_of, multiplier) == intermediate_size
    found = find_multiple(hidden_size, intermediate_size)
    assert found is not None
    assert feed_forward_size(hidden_size, *found) == intermediate_size


@given(st.integers(1, 1 << 17), st.integers(1, 1 << 18))
def test_some_pair_gives_any_width(hidden_size: int, intermediate_size: int):
    found = find_multiple(hidden_size, intermediate_size)
    assert found is not None
    assert feed_forward_size(hidden_size, *found) == intermediate_size
