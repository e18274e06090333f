"""GGUF files made from Hugging Face folders, held against what the gguf package writes and quantises."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import msgspec
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from gguf_samples import LLAMA3, contents, fields, read_file, write_hf
from meta_checkpoints import MetaModel, random_weights, write_meta
from tune_checkpoint import convert, open_checkpoint, plan_conversion
from tune_checkpoint.gguf import encode
from tune_checkpoint.gguf.reader import read_gguf_header
from tune_checkpoint.gguf.rope import llama3_factors
from tune_checkpoint.gguf.target import FILE_TYPES, QUANTS
from tune_checkpoint.gguf.types import BLOCKS, QUANTISABLE
from tune_checkpoint.mapped import MappedFile

WriteLlama = Callable[..., Any]


def in_pairs(weights: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp orders the rows of a query or key projection."""
    split = weights.reshape(heads, 2, -1, *weights.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(weights.shape))


def quantised_by_gguf(name: str, weights: np.ndarray, quant: str) -> tuple[str, list[int], bytes]:
    """What llama.cpp's converter makes of float32 weights in Hugging Face's order."""
    if ".attn_q." in name or ".attn_k." in name:
        weights = in_pairs(weights, 4 if ".attn_q." in name else 2)
    kind = GGMLQuantizationType[quant]
    if weights.ndim == 1:
        kind = GGMLQuantizationType.F32
    elif weights.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] or (
        quant[:2] == "TQ" and name == "token_embd.weight"
    ):
        kind = GGMLQuantizationType.F16
    return kind.name, [*reversed(weights.shape)], gguf.quantize(weights, kind).tobytes()


@pytest.mark.parametrize("quant", QUANTS)
def test_weights_are_those_that_the_gguf_package_makes(write_llama: WriteLlama, tmp_path: Path, quant: str):
    # Rows of 256 divide into the blocks of every type; those of 64, of the attention's output, do not.
    file = write_llama(hidden=256, feed_forward=256, biases=True)
    source = write_hf(tmp_path / "hf", file.tensors, hidden_size=256, intermediate_size=256)
    result = convert(source, tmp_path / "out", to="gguf", quant=quant)
    names = [tensor.name for tensor in read_file(file.path).tensors]
    assert contents(read_file(tmp_path / "out")) == {
        name: quantised_by_gguf(name, weights, quant.upper())
        for name, weights in zip(names, file.tensors.values(), strict=True)
    }
    assert result.files == (f"model-{quant}.gguf",)
    assert fields(read_file(tmp_path / "out"))["general.file_type"] == FILE_TYPES[quant.upper()]
    fallback = [warning for warning in result.warnings if "written as F16" in warning]
    assert len(fallback) == (quant[:2] == "tq")


def test_quants_are_those_that_the_gguf_package_can_write():
    able: set[str] = set()
    for kind in GGMLQuantizationType:
        try:
            gguf.quantize(np.ones((1, 256), np.float32), kind)
        except NotImplementedError:
            continue
        able.add(kind.name)
    assert {quant.upper() for quant in QUANTS} == able
    assert able - {"F32", "F16", "BF16"} == set(QUANTISABLE) < set(BLOCKS)
    for name, number in FILE_TYPES.items():
        assert name in gguf.LlamaFileType(number).name, name


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_floats_go_to_gguf_and_back_bit_for_bit(write_llama: WriteLlama, tmp_path: Path, dtype: str):
    file = write_llama(tied=False)
    source = write_hf(tmp_path / "hf", file.tensors, dtype, tie_word_embeddings=False)
    convert(source, tmp_path / "gguf", to="gguf")
    (path,) = (tmp_path / "gguf").iterdir()
    assert path.name == f"model-{dtype.lower()}.gguf"
    back = convert(path, tmp_path / "back")
    expected = open_checkpoint(source)
    found = open_checkpoint(back.output_dir)
    assert set(found) == set(expected)
    for name, tensor in found.items():
        if len(tensor.shape) > 1:
            assert bytes(tensor.buffer()) == bytes(expected[name].buffer()), name
        else:
            np.testing.assert_array_equal(tensor.numpy(), expected[name].numpy().astype(np.float32))
    convert(tmp_path / "back", tmp_path / "again", to="gguf")
    assert contents(read_file(tmp_path / "again")) == contents(read_file(path))


def test_kept_bytes_are_copied_and_not_computed(write_llama: WriteLlama, tmp_path: Path):
    source = write_hf(tmp_path / "hf", write_llama().tensors, "BF16")
    plan = plan_conversion(source, to="gguf", quant="bf16")
    matrices = [tensor for tensor in plan.tensors if len(tensor.shape) > 1]
    assert {type(op).__name__ for tensor in matrices for op in tensor.ops} == {"ReorderHeads"}
    assert sum(not tensor.ops for tensor in matrices) == 1 + 2 * 5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random bytes are not always finite scales
@pytest.mark.parametrize("quant", ["Q4_1", "Q8_0", "BF16", "Q6_K"])
def test_gguf_stays_as_it_is_unless_a_type_is_asked_for(write_llama: WriteLlama, tmp_path: Path, quant: str):
    file = write_llama(quant=quant, tied=False, hidden=256, feed_forward=256)
    convert(file.path, tmp_path / "out", to="gguf")
    assert contents(read_file(tmp_path / "out")) == contents(read_file(file.path))
    convert(file.path, tmp_path / "f32", to="gguf", quant="f32")
    assert {kind for kind, _, _ in contents(read_file(tmp_path / "f32")).values()} == {"F32"}


def test_asking_for_the_type_that_is_there_computes_nothing(write_llama: WriteLlama):
    plan = plan_conversion(write_llama(quant="Q4_0").path, to="gguf", quant="q4_0")
    assert not [tensor.name for tensor in plan.tensors if tensor.ops]


def test_dtype_rounds_before_the_blocks_are_made(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    source = write_hf(tmp_path / "hf", file.tensors)
    convert(source, tmp_path / "out", to="gguf", dtype="bf16", quant="q8_0")
    rounded = file.tensors["model.embed_tokens.weight"].astype(ml_dtypes.bfloat16).astype(np.float32)
    expected = gguf.quantize(rounded, GGMLQuantizationType.Q8_0).tobytes()
    assert contents(read_file(tmp_path / "out"))["token_embd.weight"][2] == expected
    convert(write_llama(quant="Q4_0").path, tmp_path / "cast", to="gguf", dtype="bf16")
    assert contents(read_file(tmp_path / "cast"))["token_embd.weight"][0] == "BF16"


def test_metadata_states_the_model_as_llama_cpp_names_it(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    source = write_hf(tmp_path / "my-model", file.tensors)
    convert(source, tmp_path / "out", to="gguf", quant="f16")
    found = fields(read_file(tmp_path / "out"))
    reference = fields(read_file(file.path))
    assert {key: found[key] for key in reference} == reference
    added = {key: value for key, value in found.items() if key not in reference}
    assert added == {
        "general.type": "model",
        "general.name": "my-model",
        "general.quantization_version": 2,
        "general.file_type": 1,
        "llama.vocab_size": 300,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "tokenizer.ggml.model": "none",
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"biases": True, "tied": False},
        {"metadata": {"llama.attention.sliding_window": 128}},
        {"metadata": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}},
        {"extra": {"rope_freqs.weight": np.array(llama3_factors(LLAMA3, 16, 50000.0), np.float32)}},
    ],
)
def test_config_comes_back_from_gguf(write_llama: WriteLlama, tmp_path: Path, options: dict[str, Any]):
    file = write_llama(**options)
    convert(file.path, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "gguf", to="gguf")
    convert(tmp_path / "gguf", tmp_path / "back")
    assert (tmp_path / "back" / "config.json").read_bytes() == (tmp_path / "hf" / "config.json").read_bytes()
    assert contents(read_file(tmp_path / "gguf")) == contents(read_file(file.path))


def test_llama3_scaling_becomes_a_tensor_of_factors_that_is_verified(write_llama: WriteLlama, tmp_path: Path):
    source = write_hf(tmp_path / "hf", write_llama().tensors, rope_scaling=LLAMA3)
    result = convert(source, tmp_path / "out", to="gguf", quant="q8_0")
    (path,) = (tmp_path / "out").iterdir()
    expected = np.array(llama3_factors(LLAMA3, 16, 50000.0), np.float32)
    np.testing.assert_array_equal(open_checkpoint(path)["rope_freqs.weight"].numpy(), expected)
    assert result.verified
    assert result.num_tensors == len(read_file(path).tensors)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 7000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": None, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7000.0}},
    ],
)
def test_rotary_parameters_are_found_where_transformers_4_and_5_have_them(
    write_llama: WriteLlama, tmp_path: Path, config: dict[str, Any]
):
    convert(write_hf(tmp_path / "hf", write_llama().tensors, **config), tmp_path / "out", to="gguf")
    found = fields(read_file(tmp_path / "out"))
    assert (found["llama.rope.scaling.type"], found["llama.rope.scaling.factor"]) == ("linear", 2.0)
    assert found["llama.rope.freq_base"] == 7000.0


def test_qwen2_keeps_the_order_of_its_heads(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama(biases=True)
    tensors = {name: weights for name, weights in file.tensors.items() if not name.endswith("o_proj.bias")}
    qwen2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False}
    source = write_hf(tmp_path / "hf", tensors, "BF16", **qwen2, sliding_window=4096)
    convert(source, tmp_path / "out", to="gguf")
    reader = read_file(tmp_path / "out")
    found = fields(reader)
    assert (found["general.architecture"], found["qwen2.attention.head_count_kv"]) == ("qwen2", 2)
    assert not [key for key in found if key.startswith("llama.") or "sliding" in key]
    for part, kind in (("weight", ml_dtypes.bfloat16), ("bias", np.float32)):
        expected = file.tensors[f"model.layers.1.self_attn.q_proj.{part}"].astype(ml_dtypes.bfloat16)
        assert contents(reader)[f"blk.1.attn_q.{part}"][2] == expected.astype(kind).tobytes()


@pytest.mark.parametrize("is_tied", [True, False])
def test_qwen2_comes_back_from_gguf(write_llama: WriteLlama, tmp_path: Path, is_tied: bool):
    file = write_llama(biases=True, tied=is_tied)
    tensors = {name: weights for name, weights in file.tensors.items() if not name.endswith("o_proj.bias")}
    qwen2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False}
    source = write_hf(tmp_path / "hf", tensors, **qwen2, tie_word_embeddings=is_tied)
    convert(source, tmp_path / "gguf", to="gguf")
    assert convert(tmp_path / "gguf", tmp_path / "back").kind == "gguf"
    back = open_checkpoint(tmp_path / "back")
    assert set(back) == set(tensors)
    for name, weights in tensors.items():
        np.testing.assert_array_equal(back[name].numpy(), weights, err_msg=name)
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "back"))
    assert {key: after[key] for key in before} == before
    convert(tmp_path / "gguf", tmp_path / "again", to="gguf")
    assert contents(read_file(tmp_path / "again")) == contents(read_file(tmp_path / "gguf"))


def test_every_tensor_is_aligned_and_the_file_ends_where_it_should(write_llama: WriteLlama, tmp_path: Path):
    source = write_hf(tmp_path / "hf", write_llama(vocab=301).tensors, "F16")
    convert(source, tmp_path / "out", to="gguf", quant="q4_0")
    reader = read_file(tmp_path / "out")
    assert all(tensor.data_offset % 32 == 0 for tensor in reader.tensors)
    last = reader.tensors[-1]
    assert (tmp_path / "out" / "model-q4_0.gguf").stat().st_size == -(
        -(last.data_offset + last.n_bytes) // 32
    ) * 32


def test_licences_go_along_and_nothing_else(write_llama: WriteLlama, tmp_path: Path):
    source = write_hf(tmp_path / "hf", write_llama().tensors)
    for name in ("LICENSE", "USE_POLICY.md", "README.md", "generation_config.json"):
        (source / name).write_text("{}")
    assert {file.name for file in plan_conversion(source, to="gguf").files} == {"LICENSE", "USE_POLICY.md"}


def test_what_was_assumed_for_the_config_is_told(tmp_path: Path):
    model = MetaModel()
    write_meta(tmp_path, model, random_weights(model))
    told = plan_conversion(tmp_path, to="gguf").warnings
    assert [warning for warning in told if "does not state max_position_embeddings 4096" in warning]


def test_planning_needs_headers_alone(write_llama: WriteLlama, tmp_path: Path):
    source = write_hf(tmp_path / "hf", write_llama().tensors)
    code = """
import sys
from tune_checkpoint import plan_conversion
plan_conversion(sys.argv[1], to="gguf", quant="q8_0")
assert not {"numpy", "gguf", "ml_dtypes"} & set(sys.modules), "something heavy was imported"
"""
    subprocess.run([sys.executable, "-c", code, source], check=True)


def test_plan_serialises(write_llama: WriteLlama, tmp_path: Path):
    source = write_hf(tmp_path / "hf", write_llama().tensors, rope_scaling=LLAMA3)
    plan = plan_conversion(source, to="gguf", quant="q5_1")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=type(plan)) == plan


VALUES = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda value: (encode.uint32(value), value)),
    st.floats(width=32, allow_nan=False).map(lambda value: (encode.float32(value), value)),
    st.booleans().map(lambda value: (encode.flag(value), value)),
    st.text().map(lambda value: (encode.text(value), value)),
    st.lists(st.text()).map(lambda values: (encode.texts(values), values)),
    st.lists(st.integers(-(2**31), 2**31 - 1)).map(lambda values: (encode.int32s(values), values)),
    st.lists(st.floats(width=32, allow_nan=False)).map(lambda values: (encode.float32s(values), values)),
)


@given(pairs=st.dictionaries(st.text(min_size=1), VALUES, max_size=6))
def test_any_metadata_reads_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: dict[str, tuple[bytes, Any]]
):
    pairs.pop("general.alignment", None)
    path = tmp_path_factory.getbasetemp() / "metadata.gguf"
    path.write_bytes(encode.encode_preamble({key: value for key, (value, _) in pairs.items()}, 0))
    assert read_gguf_header(MappedFile(path)).metadata._values == {key: v for key, (_, v) in pairs.items()}
