"""config.json, read and written in both dialects, and refused where the decoder would be wrong."""

import json

import msgspec
import pytest
from transformers import AutoConfig

from tune_recipes.errors import UserError
from tune_recipes.models.config import ModelConfig, RopeParameters, hf_config, read_model_config

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
BASE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
OLD = BASE | {"rope_theta": 5e5, "rope_scaling": LLAMA3, "torch_dtype": "bfloat16", "eos_token_id": [2, 3]}
NEW = BASE | {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "dtype": "bfloat16", "eos_token_id": [2, 3]}


@pytest.fixture
def read(tmp_path):
    def read(raw: dict) -> ModelConfig:
        (tmp_path / "config.json").write_text(json.dumps(raw))
        return read_model_config(tmp_path)

    return read


def test_both_dialects_say_the_same(read):
    assert read(OLD) == read(NEW)
    assert read(NEW).rope_parameters == RopeParameters(**LLAMA3, rope_theta=5e5)


def test_derived_sizes_are_filled_in(read):
    config = read({name: value for name, value in BASE.items() if name != "num_key_value_heads"})
    assert (config.num_key_value_heads, config.head_dim) == (8, 8)
    assert read(BASE | {"head_dim": None}).head_dim == 8
    assert read(BASE | {"head_dim": 32}).head_dim == 32


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_fields_left_out_mean_what_transformers_means(family, tmp_path, read):
    raw = {
        name: value for name, value in BASE.items() if name not in ("architectures", "num_key_value_heads")
    }
    ours = read(raw | {"model_type": family})
    theirs = AutoConfig.from_pretrained(tmp_path)

    for name in set(ModelConfig.__struct_fields__) - {"architectures", "bos_token_id", "eos_token_id"}:
        if name == "rope_parameters":
            assert hf_config(ours, "float32")[name] == theirs.rope_parameters
        elif hasattr(theirs, name):
            assert getattr(ours, name) == getattr(theirs, name), name


def test_absent_sliding_window_differs_from_null(read):
    mistral = {**BASE, "model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    assert read(mistral).sliding_window == 4096
    assert read(mistral | {"sliding_window": None}).sliding_window is None


@pytest.mark.parametrize(
    "rope",
    [
        RopeParameters(rope_theta=1234.0),
        RopeParameters(rope_type="linear", factor=2.0),
        RopeParameters(**LLAMA3, rope_theta=5e5),
    ],
    ids=lambda rope: rope.rope_type,
)
def test_what_is_written_reads_back_here_and_in_transformers(read, tmp_path, rope):
    config = msgspec.structs.replace(
        read(BASE),
        rope_parameters=rope,
        head_dim=16,
        attention_bias=True,
        eos_token_id=(2, 3),
        pad_token_id=4,
    )
    written = hf_config(config, "bfloat16")

    assert read(written) == config
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert str(theirs.dtype) == "torch.bfloat16"
    assert {"type": rope.rope_type, **written["rope_parameters"]} == {
        "type": rope.rope_type,
        **theirs.rope_parameters,
    }
    assert (theirs.head_dim, theirs.attention_bias, theirs.eos_token_id) == (16, True, [2, 3])
    # Each dialect by itself says it all.
    new = {name: value for name, value in written.items() if name not in ("rope_theta", "rope_scaling")}
    old = {name: value for name, value in written.items() if name != "rope_parameters"}
    assert read(new) == read(old) == config


def test_missing_folder_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such model folder. Expected a Hugging Face folder"):
        read_model_config(tmp_path / "nowhere")


def test_file_instead_of_folder_is_refused(tmp_path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(UserError, match=r"model.gguf: is a file, not a model folder"):
        read_model_config(tmp_path / "model.gguf")


def test_folder_without_config_says_what_is_there(tmp_path):
    with pytest.raises(UserError, match=r"no config.json in it; the folder is empty"):
        read_model_config(tmp_path)
    (tmp_path / "params.json").touch()
    (tmp_path / "consolidated.00.pth").touch()
    with pytest.raises(UserError, match=r"there is consolidated.00.pth, params.json. Expected"):
        read_model_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_json_names_the_file(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json: (not valid JSON|expected a JSON object)"):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
            "Qwen2ForCausalLM is not supported; supported",
        ),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "LlamaForSequenceClassification is not supported",
        ),
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM is not supported"),
        (
            {"model_type": "gpt2", "architectures": None},
            "model_type 'gpt2' is not supported; supported are Llama",
        ),
        ({"model_type": None, "architectures": []}, "model_type None is not supported"),
        ({"model_type": ["llama"]}, r'model_type: expected a text, found \["llama"\]'),
        ({"architectures": "LlamaForCausalLM"}, "architectures: expected a list of texts"),
        ({"architectures": [5]}, r"architectures: expected a list of texts, found \[5\]"),
        ({"rope_scaling": ["linear", 2.0]}, "rope_scaling: expected an object or null"),
        ({"rope_scaling": "linear"}, "rope_scaling: expected an object or null"),
        ({"rope_parameters": 5}, "rope_parameters: expected an object or null, found 5"),
        ({"vocab_size": "many"}, "vocab_size: expected int, got str"),
        ({"vocab_size": None}, "missing required field vocab_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: expected bool, got str"),
        ({"hidden_size": 63}, "hidden_size 63 is no multiple of num_attention_heads 8"),
        ({"num_key_value_heads": 3}, "num_attention_heads 8 is no multiple of num_key_value_heads 3"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"pad_token_id": 100}, "pad_token_id 100 is outside the vocabulary of 100"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is not supported, only \"silu\" is"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5 is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: .* is not supported"),
        ({"layer_types": ["full_attention"]}, "layer_types: .* is not supported"),
        ({"sliding_window": 8}, "sliding_window belongs to model_type 'mistral'"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
            "rope_type: 'yarn' is not supported, only default, lin",
        ),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_type: 'dynamic' is not supported",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_parameters: rope_type 'linear' needs a positive factor"),
        (
            {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
            "high_freq_factor 4.0 must exceed low_freq_factor 4.0",
        ),
        ({"rope_parameters": {"rope_theta": 0.0}}, "rope_theta must be positive"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters: .*partial_rotary_factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters: .*full_attention"),
    ],
)
def test_what_would_go_wrong_is_refused_by_name(read, changes, message):
    with pytest.raises(UserError, match=rf"config\.json: .*{message}"):
        read(BASE | changes)


def test_mistral_with_biases_is_refused(read):
    raw = BASE | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "attention_bias": True}
    with pytest.raises(UserError, match="'mistral' has no biases"):
        read(raw)
