"""Converting GGUF files of the Llama architecture to Hugging Face folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from tune_checkpoint import (
    CorruptFileError,
    UnsupportedCheckpointError,
    convert,
    open_checkpoint,
    plan_conversion,
)
from tune_checkpoint.execute import BLOCK_BYTES, reordered, tensor_blocks
from tune_checkpoint.gguf.config import assumed_settings
from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.gguf.rope import llama3_factors, llama3_scaling
from tune_checkpoint.gguf.types import BLOCK_TYPES, BLOCKS, QUANTISABLE
from tune_checkpoint.plan import ReorderHeads
from tune_checkpoint.sources import Sources

WriteLlama = Callable[..., Any]


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_float_weights_come_back_bit_for_bit_under_hugging_face_names(
    write_llama: WriteLlama, tmp_path: Path
):
    file = write_llama(tied=False, biases=True)
    result = convert(file.path, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == file.tensors.keys()
    for name, expected in file.tensors.items():
        np.testing.assert_array_equal(written[name], expected, err_msg=name)
    assert result.num_tensors == len(file.tensors)
    assert result.nbytes == sum(weights.nbytes for weights in file.tensors.values())
    assert result.num_parameters == result.nbytes // 4


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random bytes are not always finite scales
@pytest.mark.parametrize("quant", BLOCKS)
def test_quantised_weights_equal_the_gguf_packages_dequantisation(
    write_llama: WriteLlama, tmp_path: Path, quant: str
):
    # Rows of 256 divide into the blocks of every type.
    file = write_llama(quant=quant, hidden=256, feed_forward=256)
    convert(file.path, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    kind = GGMLQuantizationType[quant]
    for name, weights in file.tensors.items():
        is_blocks = weights.ndim > 1 and weights.shape[1] % BLOCKS[quant][0] == 0 and quant in QUANTISABLE
        expected = gguf.dequantize(gguf.quantize(weights, kind), kind) if is_blocks else weights
        np.testing.assert_array_equal(written[name], expected, err_msg=name)
    sources = {tensor.dtype for tensor in open_checkpoint(file.path).values()}
    assert quant in sources


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random bytes are not always finite scales
@pytest.mark.parametrize("quant", sorted(BLOCKS))
def test_every_block_type_dequantises_as_in_the_gguf_package(tmp_path: Path, quant: str):
    elements, block_bytes = BLOCKS[quant]
    kind = GGMLQuantizationType[quant]
    raw = np.random.default_rng(1).integers(0, 256, (40, 3 * block_bytes), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("x", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = open_checkpoint(tmp_path / "one.gguf")["x"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == (quant, (40, 3 * elements), raw.nbytes)
    assert bytes(tensor.buffer()) == raw.tobytes()
    np.testing.assert_array_equal(tensor.numpy(), gguf.dequantize(raw, kind))


def test_table_of_block_types_is_the_gguf_packages():
    for number, (name, elements, num_bytes) in BLOCK_TYPES.items():
        kind = GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (elements, num_bytes))


@pytest.mark.parametrize(
    ("dtype", "numpy_type"), [("fp32", np.float32), ("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)]
)
@pytest.mark.parametrize("quant", ["F32", "F16", "BF16", "Q8_0"])
def test_dtype_casts_every_weight(
    write_llama: WriteLlama, tmp_path: Path, quant: str, dtype: str, numpy_type: Any
):
    file = write_llama(quant=quant)
    convert(file.path, tmp_path / "out", dtype=dtype)
    kind = GGMLQuantizationType[quant]
    for name, tensor in open_checkpoint(tmp_path / "out").items():
        weights = file.tensors[name]
        read = weights if weights.ndim == 1 else gguf.dequantize(gguf.quantize(weights, kind), kind)
        np.testing.assert_array_equal(tensor.numpy(), read.astype(numpy_type), err_msg=name)
    assert config_of(tmp_path / "out")["dtype"] == np.dtype(numpy_type).name


def test_half_precision_is_kept_and_named_in_the_config(write_llama: WriteLlama, tmp_path: Path):
    convert(write_llama(quant="BF16").path, tmp_path / "out")
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint["model.embed_tokens.weight"].dtype == "BF16"
    assert checkpoint["model.norm.weight"].dtype == "F32"
    assert config_of(tmp_path / "out")["torch_dtype"] == "bfloat16"


def test_values_that_half_precision_cannot_hold_are_refused(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama(
        drop=("output_norm.weight",), extra={"output_norm.weight": np.full(64, 1e5, np.float32)}
    )
    with pytest.raises(
        UnsupportedCheckpointError, match=r"'output_norm.weight' holds values beyond.*F16.*bf16"
    ):
        convert(file.path, tmp_path / "out", dtype="fp16")
    assert not (tmp_path / "out").exists()


def test_tied_head_is_written_once(write_llama: WriteLlama, tmp_path: Path):
    convert(write_llama(tied=True).path, tmp_path / "tied")
    assert config_of(tmp_path / "tied")["tie_word_embeddings"] is True
    assert "lm_head.weight" not in open_checkpoint(tmp_path / "tied")
    convert(write_llama(tied=False).path, tmp_path / "untied")
    assert config_of(tmp_path / "untied")["tie_word_embeddings"] is False
    assert "lm_head.weight" in open_checkpoint(tmp_path / "untied")


def test_config_states_the_metadata_in_both_dialects(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama(biases=True, metadata={"tokenizer.ggml.bos_token_id": 3})
    convert(file.path, tmp_path / "out")
    config = config_of(tmp_path / "out")
    expected = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-05,
        "rope_theta": 50000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
        "attention_bias": True,
        "mlp_bias": False,
    }
    assert {key: config[key] for key in expected} == expected


def test_sliding_window_makes_a_mistral(write_llama: WriteLlama, tmp_path: Path):
    convert(write_llama(metadata={"llama.attention.sliding_window": 128}).path, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 128)


@pytest.mark.parametrize(
    ("factor", "low", "high", "context"), [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 1.0, 8.0, 32)]
)
def test_llama3_scaling_is_recovered_from_its_factors(
    write_llama: WriteLlama, tmp_path: Path, factor: float, low: float, high: float, context: int
):
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }
    factors = np.array(llama3_factors(scaling, 16, 50000.0), np.float32)
    convert(write_llama(extra={"rope_freqs.weight": factors}).path, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert config["rope_scaling"] == scaling
    assert config["rope_parameters"] == scaling | {"rope_theta": 50000.0}


def test_factors_of_another_scaling_are_refused(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama(extra={"rope_freqs.weight": np.linspace(1, 9, 8, dtype=np.float32)})
    with pytest.raises(UnsupportedCheckpointError, match=r"'rope_freqs.weight'.*not those of llama3"):
        convert(file.path, tmp_path / "out")


@given(st.lists(st.floats(width=32), min_size=8, max_size=8), st.floats(0, width=32, exclude_min=True))
def test_any_factors_are_scaled_or_refused(factors: list[float], theta: float):
    try:
        scaling = llama3_scaling(factors, 16, theta, "here")
    except UnsupportedCheckpointError:
        return
    assert scaling is None or llama3_factors(scaling, 16, theta) == pytest.approx(factors, rel=1e-4)


@pytest.mark.parametrize("theta", [-1.0, 0.0, float("nan"), float("inf")])
def test_impossible_rope_theta_is_refused(write_llama: WriteLlama, tmp_path: Path, theta: float):
    with pytest.raises(CorruptFileError, match=r"rope.freq_base is .*; it must be positive and finite"):
        convert(write_llama(rope_theta=theta).path, tmp_path / "out")


def test_linear_scaling_is_kept(write_llama: WriteLlama, tmp_path: Path):
    metadata = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    convert(write_llama(metadata=metadata).path, tmp_path / "out")
    assert config_of(tmp_path / "out")["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"arch": "gemma"},
            UnsupportedCheckpointError,
            "architecture 'gemma' cannot.*supported: llama, qwen2",
        ),
        ({"arch": "qwen2"}, CorruptFileError, "'blk.0.attn_q.bias' is missing"),
        (
            {"arch": "qwen2", "biases": True},
            UnsupportedCheckpointError,
            r"2 tensors are no part of a qwen2 model \(blk.0.attn_output.bias",
        ),
        ({"metadata": {"llama.expert_count": 8}}, UnsupportedCheckpointError, "mixture of experts"),
        (
            {"metadata": {"split.count": 2, "split.no": 1}},
            CorruptFileError,
            r"is part 2 of 2 of a model .*names they had, MODEL-00002-of-00002.gguf",
        ),
        ({"metadata": {"llama.attention.key_length": 32}}, UnsupportedCheckpointError, "rotary or value"),
        ({"metadata": {"llama.rope.scaling.type": "yarn"}}, UnsupportedCheckpointError, "'yarn'"),
        ({"drop": ("blk.1.ffn_up.weight",)}, CorruptFileError, "'blk.1.ffn_up.weight' is missing"),
        ({"drop": ("token_embd.weight",)}, CorruptFileError, "'token_embd.weight' is missing"),
        (
            {"biases": True, "drop": ("blk.0.attn_output.bias",)},
            UnsupportedCheckpointError,
            "no attn_output.bias",
        ),
        (
            {"extra": {"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}},
            UnsupportedCheckpointError,
            r"no part of a llama model \(blk.0.attn_sinks.weight\)",
        ),
        (
            {"drop": ("output_norm.weight",), "extra": {"output_norm.weight": np.ones(32, np.float32)}},
            CorruptFileError,
            r"'output_norm.weight' has shape \[32\]; the metadata makes it \[64\]",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(
    write_llama: WriteLlama, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
):
    file = write_llama(**options)
    with pytest.raises(error, match=message):
        convert(file.path, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model.gguf"}


def test_unpermuting_inverts_llama_cpps_permutation():
    rows = np.arange(48)
    permuted = rows.reshape(3, 2, 8).swapaxes(1, 2).reshape(-1)
    np.testing.assert_array_equal(reordered(permuted, ReorderHeads(3, "halves"), 16), rows)
    np.testing.assert_array_equal(reordered(rows, ReorderHeads(3, "pairs"), 16), permuted)


def test_plan_reads_no_weights_and_serialises(write_llama: WriteLlama):
    import msgspec

    plan = plan_conversion(write_llama(quant="Q8_0").path, dtype="bf16")
    query = next(tensor for tensor in plan.tensors if tensor.name.endswith("0.self_attn.q_proj.weight"))
    assert [type(op).__name__ for op in query.ops] == ["ReorderHeads", "Dequantise", "Cast"]
    assert (query.dtype, query.shape, query.sources[0].dtype) == ("BF16", (64, 64), "Q8_0")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=type(plan)) == plan


def test_weights_stream_in_blocks_whatever_the_size_of_a_tensor(write_llama: WriteLlama):
    # 300 x 8192 floats, 9.8 MB: several blocks
    file = write_llama(quant="Q8_0", hidden=8192)
    plan = plan_conversion(file.path)
    with Sources() as sources:
        sizes = {
            tensor.name: [block.nbytes for block in tensor_blocks(tensor, sources)] for tensor in plan.tensors
        }
    assert max(max(chunks) for chunks in sizes.values()) <= BLOCK_BYTES
    assert len(sizes["model.embed_tokens.weight"]) > 5
    assert sum(sum(chunks) for chunks in sizes.values()) == plan.nbytes


def test_progress_ends_at_the_whole(write_llama: WriteLlama, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    result = convert(
        write_llama().path, tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert seen == sorted(seen)
    assert seen[-1] == (2 * result.nbytes, 2 * result.nbytes)


def test_shards_hold_the_same_weights_as_one_file(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama(quant="F16")
    convert(file.path, tmp_path / "one")
    result = convert(file.path, tmp_path / "many", max_shard_size=40_000)
    assert "model.safetensors.index.json" in result.files
    one, many = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "many")
    assert sorted(one) == sorted(many)
    for name in one:
        assert bytes(one[name].buffer()) == bytes(many[name].buffer())


def test_written_file_says_it_is_for_pytorch(write_llama: WriteLlama, tmp_path: Path):
    convert(write_llama().path, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_settings_that_the_file_does_not_state_are_named():
    stated = {"general.architecture": "llama", "llama.attention.layer_norm_rms_epsilon": 1e-5}
    (warning,) = assumed_settings(Metadata(Path("model.gguf"), stated))
    assert warning == "config.json: the file does not state llama.context_length; 2048 was written"


def test_file_without_a_vocabulary_gives_a_warning(write_llama: WriteLlama, tmp_path: Path):
    result = convert(write_llama().path, tmp_path / "out")
    assert result.files == ("model.safetensors", "config.json", "generation_config.json")
    assert "no vocabulary" in result.warnings[0]
