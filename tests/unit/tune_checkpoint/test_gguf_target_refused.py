"""What cannot become a GGUF file, and what is said of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from safetensors.numpy import load_file, save_file

from gguf_samples import CONFIG, LLAMA3, write_hf
from tune_checkpoint import (
    CheckpointError,
    CorruptFileError,
    UnsupportedCheckpointError,
    convert,
    open_checkpoint,
    plan_conversion,
)
from tune_checkpoint.gguf.target import to_gguf
from tune_checkpoint.plan import Plan, SideFile

WriteLlama = Callable[..., Any]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM cannot be written .*these can: Llama"),
        ({"architectures": None, "model_type": "bert"}, "config.json: bert cannot be written"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rotary scaling of type 'yarn'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"partial_rotary_factor": 0.5}, "rotated in part"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 9, "use_sliding_window": True},
            "use_sliding_window",
        ),
        ({"num_hidden_layers": 1}, r"are no part of a LlamaForCausalLM \(model.layers.1"),
    ],
)
def test_what_gguf_has_no_place_for_is_refused_by_name(
    write_llama: WriteLlama, tmp_path: Path, config: dict[str, Any], message: str
):
    source = write_hf(tmp_path / "hf", write_llama().tensors, **config)
    with pytest.raises(UnsupportedCheckpointError, match=message) as caught:
        plan_conversion(source, to="gguf")
    assert str(source) in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 0}, r"config.json: .*hidden_size"),
        (
            {"hidden_size": 32},
            r"embed_tokens.weight' has shape \[300, 64\]; config.json makes it \[300, 32\]",
        ),
        ({"num_hidden_layers": 3}, "'model.layers.2.input_layernorm.weight' is missing"),
        ({"num_hidden_layers": 10**9}, "states 1000000000 layers"),
        ({"head_dim": 15}, "a head of 15 elements cannot be rotated in pairs"),
        ({"num_key_value_heads": 3}, "4 query heads do not share 3"),
        ({"tie_word_embeddings": False}, "'lm_head.weight' is missing"),
        ({"rope_scaling": LLAMA3 | {"factor": None}}, "llama3 rotary scaling takes factor"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "low_freq_factor < high_freq_factor"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "llama3 rotary scaling takes factor"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ],
)
def test_contradictions_are_named(
    write_llama: WriteLlama, tmp_path: Path, config: dict[str, Any], message: str
):
    source = write_hf(tmp_path / "hf", write_llama().tensors, **config)
    with pytest.raises(CorruptFileError, match=message) as caught:
        plan_conversion(source, to="gguf")
    assert str(source) in str(caught.value)


def test_folder_without_a_config_and_foreign_types_are_refused(write_llama: WriteLlama, tmp_path: Path):
    source = write_hf(tmp_path / "hf", write_llama().tensors)
    (source / "config.json").unlink()
    with pytest.raises(UnsupportedCheckpointError, match=r"no config.json.*copy it from"):
        plan_conversion(source, to="gguf")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].astype(np.int8)}, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UnsupportedCheckpointError, match=rf"'{name}' is stored as I8"):
        plan_conversion(source, to="gguf")
    with pytest.raises(ValueError, match=r"quant 'q4_k': one of f32, .*q4_0"):
        plan_conversion(source, to="gguf", quant="q4_k")


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e6])
def test_values_that_blocks_cannot_hold_are_refused(write_llama: WriteLlama, tmp_path: Path, value: float):
    tensors = write_llama().tensors
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    source = write_hf(tmp_path / "hf", tensors)
    message = r"1.mlp.up_proj.weight' holds NaN or values beyond .* take f32 or bf16 for quant"
    with pytest.raises(UnsupportedCheckpointError, match=message):
        convert(source, tmp_path / "out", to="gguf", quant="q8_0")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quant", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_tiny_values_become_zeros_without_a_word(write_llama: WriteLlama, tmp_path: Path, quant: str):
    tensors = {name: np.full_like(weights, 1e-40) for name, weights in write_llama().tensors.items()}
    convert(write_hf(tmp_path / "hf", tensors), tmp_path / "out", to="gguf", quant=quant)
    (path,) = (tmp_path / "out").iterdir()
    assert not open_checkpoint(path)["token_embd.weight"].numpy().any()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_config_is_planned_or_refused(plan: Plan, place: float, byte: int, cut: bool):
    content = json.dumps(CONFIG | {"rope_scaling": LLAMA3, "architectures": ["LlamaForCausalLM"]}).encode()
    index = int(place * len(content))
    damaged = content[:index] + bytes([byte]) + (b"" if cut else content[index + 1 :])
    try:
        to_gguf(replace(plan, files=(SideFile("config.json", damaged),)), "q8_0")
    except CheckpointError as error:
        assert plan.source in str(error)


@pytest.fixture
def plan(write_llama: WriteLlama, tmp_path: Path) -> Plan:
    return plan_conversion(write_hf(tmp_path / "hf", write_llama().tensors))
