"""Adapters merged into their base, held against the same arithmetic in float64."""

import subprocess
import sys
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from adapter_files import (
    DOWN,
    EMBEDDING,
    FEED_FORWARD,
    HEAD,
    HIDDEN,
    NORM,
    NUMPY,
    PRECISION,
    QUERY,
    RANK,
    WEIGHTS,
    Arrays,
    embedding_lora,
    lora,
    made,
    normal,
    write_adapter,
    write_base,
)
from tune_checkpoint import UnsupportedCheckpointError, execute, plan_conversion
from tune_checkpoint.peft import steps
from tune_checkpoint.peft.merge import merge_adapter
from tune_checkpoint.plan import Plan


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and tiles of a few rows, so that small tensors have many."""
    monkeypatch.setattr(execute, "BLOCK_BYTES", 96)
    monkeypatch.setattr(execute, "COPY_BYTES", 48)
    monkeypatch.setattr(steps, "TILE", 30)


@pytest.fixture
def weights() -> Arrays:
    return {name: normal(*shape) for name, shape in WEIGHTS.items()}


@pytest.fixture
def base(tmp_path: Path, weights: Arrays) -> Path:
    return write_base(tmp_path / "base", weights)


@pytest.fixture
def merged(tmp_path: Path, base: Path) -> Callable[..., Arrays]:
    """A function that gives all weights of the base with an adapter in it."""

    def merge(tensors: Arrays, *, dtype: str | None = None, **config: Any) -> Arrays:
        adapter = write_adapter(tmp_path / "adapter", tensors, **config)
        return made(plan_conversion(base, adapter=adapter, dtype=dtype))

    return merge


@pytest.mark.usefixtures("small_blocks")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    outputs=st.integers(1, 40),
    inputs=st.integers(1, 40),
    rank=st.integers(1, 9),
    alpha=st.floats(0.125, 64),
    base_type=st.sampled_from(sorted(NUMPY)),
    adapter_type=st.sampled_from(sorted(NUMPY)),
    is_dora=st.booleans(),
    is_stabilised=st.booleans(),
    is_turned=st.booleans(),
)
def test_merged_weights_are_those_of_float64_within_rounding(
    tmp_path: Path,
    outputs: int,
    inputs: int,
    rank: int,
    alpha: float,
    base_type: str,
    adapter_type: str,
    is_dora: bool,
    is_stabilised: bool,
    is_turned: bool,
):
    weight = normal(outputs, inputs).astype(NUMPY[base_type])
    a, b, norms = (
        array.astype(NUMPY[adapter_type])
        for array in (normal(rank, inputs), normal(outputs, rank), 1 + normal(outputs) ** 2)
    )
    tensors = {"m.x.lora_A.weight": a, "m.x.lora_B.weight": b}
    tensors |= {"m.x.lora_magnitude_vector": norms} if is_dora else {}
    adapter = write_adapter(
        tmp_path / "adapter",
        tensors,
        r=rank,
        lora_alpha=alpha,
        use_dora=is_dora,
        use_rslora=is_stabilised,
        fan_in_fan_out=is_turned,
    )
    stored = np.ascontiguousarray(weight.T) if is_turned else weight
    base = write_base(tmp_path / "base", {"m.x.weight": stored})

    scale = alpha / (sqrt(rank) if is_stabilised else rank)
    exact = weight.astype(np.float64) + scale * (b.astype(np.float64) @ a.astype(np.float64))
    size = np.abs(weight.astype(np.float64)) + scale * (
        np.abs(b.astype(np.float64)) @ np.abs(a.astype(float))
    )
    if is_dora:
        factors = norms.astype(np.float64)[:, None] / np.linalg.norm(exact, axis=1, keepdims=True)
        exact, size = exact * factors, size * factors

    try:
        got = made(plan_conversion(base, adapter=adapter))["m.x.weight"]
    except UnsupportedCheckpointError as error:
        assert "changes nothing" in str(error)
        got = stored  # a few small updates may be rounded away
    assert got.dtype == NUMPY[base_type]
    got = got.T if is_turned else got
    assert (np.abs(got.astype(np.float64) - exact) <= PRECISION[base_type] * size + 1e-7).all()


@pytest.mark.usefixtures("small_blocks")
def test_what_the_adapter_leaves_alone_is_copied(weights: Arrays, merged: Callable[..., Arrays]):
    result = merged(lora(DOWN, inputs=FEED_FORWARD))
    assert result.keys() == weights.keys()
    assert [name for name in weights if (result[name] != weights[name]).any()] == [f"{DOWN}.weight"]


@pytest.mark.usefixtures("small_blocks")
def test_embedding_gets_its_product_turned_over(weights: Arrays, merged: Callable[..., Arrays]):
    tensors = embedding_lora(EMBEDDING)
    a, b = tensors.values()
    expected = weights[f"{EMBEDDING}.weight"] + 1.5 * (b @ a).T
    np.testing.assert_allclose(merged(tensors)[f"{EMBEDDING}.weight"], expected, atol=1e-5)


def test_square_embedding_is_told_from_a_square_layer(tmp_path: Path):
    square = normal(HIDDEN, HIDDEN)
    base = write_base(tmp_path / "base", {f"{EMBEDDING}.weight": square, f"{QUERY}.weight": square})
    a, b = normal(RANK, HIDDEN), normal(HIDDEN, RANK)
    embedding = {f"{EMBEDDING}.lora_embedding_A": a, f"{EMBEDDING}.lora_embedding_B": b}
    layer = {f"{QUERY}.lora_A.weight": a, f"{QUERY}.lora_B.weight": b}
    result = made(plan_conversion(base, adapter=write_adapter(tmp_path / "adapter", embedding | layer)))
    np.testing.assert_allclose(result[f"{EMBEDDING}.weight"], square + 1.5 * (b @ a).T, atol=1e-5)
    np.testing.assert_allclose(result[f"{QUERY}.weight"], square + 1.5 * (b @ a), atol=1e-5)


@pytest.mark.usefixtures("small_blocks")
def test_embedding_with_dora_gets_columns_of_the_trained_lengths(merged: Callable[..., Arrays]):
    norms = 1 + normal(HIDDEN) ** 2
    tensors = embedding_lora(EMBEDDING) | {f"{EMBEDDING}.lora_magnitude_vector": norms}
    result = merged(tensors, use_dora=True)[f"{EMBEDDING}.weight"]
    np.testing.assert_allclose(np.linalg.norm(result, axis=0), norms, rtol=1e-5)


@pytest.mark.parametrize("end", [".weight", ".default.weight", ".my_task.weight"])
def test_names_with_and_without_the_adapters_own_are_the_same(
    weights: Arrays, merged: Callable[..., Arrays], end: str
):
    a, b = normal(RANK, HIDDEN), normal(HIDDEN, RANK)
    result = merged({f"{QUERY}.lora_A{end}": a, f"{QUERY}.lora_B{end}": b})
    expected = weights[f"{QUERY}.weight"] + 1.5 * (b @ a)
    np.testing.assert_allclose(result[f"{QUERY}.weight"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        (f"{QUERY}.base_layer.bias", f"{QUERY}.bias"),
        (f"{QUERY}.bias", f"{QUERY}.bias"),
        (f"{NORM}.weight", f"{NORM}.weight"),
        (f"{HEAD}.modules_to_save.default.weight", f"{HEAD}.weight"),
        (f"{EMBEDDING}.modules_to_save.weight", f"{EMBEDDING}.weight"),
        (f"{EMBEDDING}.base_layer.weight", f"{EMBEDDING}.weight"),
    ],
)
def test_what_was_trained_whole_takes_the_place_of_the_bases(
    merged: Callable[..., Arrays], stored: str, name: str
):
    trained = normal(*WEIGHTS[name])
    assert (merged(lora(QUERY) | {stored: trained})[name] == trained).all()
    half = merged(lora(QUERY) | {stored: trained}, dtype="bf16")[name]
    assert (half == trained.astype(ml_dtypes.bfloat16)).all()


@pytest.mark.usefixtures("small_blocks")
def test_trained_tokens_take_the_place_of_their_rows(weights: Arrays, merged: Callable[..., Arrays]):
    rows = normal(3, HIDDEN)
    tensors = lora(QUERY) | {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": rows}
    expected = weights[f"{EMBEDDING}.weight"].copy()
    expected[[17, 0, 5]] = rows
    for indices in ([17, 0, 5], {"embed_tokens": [17, 0, 5]}):
        result = merged(tensors, trainable_token_indices=indices)
        assert (result[f"{EMBEDDING}.weight"] == expected).all()


def test_patterns_choose_the_scale_by_the_end_of_a_name(weights: Arrays, merged: Callable[..., Arrays]):
    tensors = lora(QUERY, rank=4) | lora(DOWN, inputs=FEED_FORWARD)
    result = merged(
        tensors,
        rank_pattern={"q_proj": 4},
        alpha_pattern={"^model.norm": 9, r"layers\.\d\.mlp\..*": 5, "proj": 7},
    )
    for module, scale in ((QUERY, 3 / 4), (DOWN, 5 / 2)):
        a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        expected = weights[f"{module}.weight"] + scale * (b @ a)
        np.testing.assert_allclose(result[f"{module}.weight"], expected, atol=1e-5)


def test_outermost_part_of_a_name_may_differ(tmp_path: Path, weights: Arrays):
    inner = {name.removeprefix("model."): array for name, array in weights.items()}
    adapter = write_adapter(tmp_path / "adapter", lora(QUERY))
    plan = plan_conversion(write_base(tmp_path / "base", inner), adapter=adapter)
    changed = [tensor.name for tensor in plan.tensors if tensor.ops]
    assert changed == [f"{QUERY}.weight".removeprefix("model.")]


def test_update_is_added_in_hugging_faces_order_whatever_the_base_has(
    write_llama: Callable[..., Any], tmp_path: Path
):
    import gguf

    file = write_llama(quant="Q8_0")
    tensors = lora(QUERY, outputs=64, inputs=64)
    a, b = tensors.values()
    plan = plan_conversion(file.path, adapter=write_adapter(tmp_path / "adapter", tensors))
    kind = gguf.GGMLQuantizationType.Q8_0
    expected = gguf.dequantize(gguf.quantize(file.tensors[f"{QUERY}.weight"], kind), kind) + 1.5 * (b @ a)
    np.testing.assert_allclose(made(plan)[f"{QUERY}.weight"], expected, atol=1e-5)


def test_output_is_the_same_in_any_number_of_threads(base: Path, tmp_path: Path):
    tensors = lora(QUERY) | lora(DOWN, inputs=FEED_FORWARD) | embedding_lora(EMBEDDING)
    adapter = write_adapter(tmp_path / "adapter", tensors)
    for jobs in (1, 4):
        result = merge_adapter(base, adapter, tmp_path / str(jobs), jobs=jobs, max_shard_size=700)
        assert (result.num_tensors, result.verified) == (len(WEIGHTS), True)
    one, four = (
        {path.name: path.read_bytes() for path in (tmp_path / jobs).iterdir()} for jobs in ("1", "4")
    )
    assert one == four
    assert len(one) > 4
    assert one["config.json"] == (base / "config.json").read_bytes()


def test_plan_names_every_file_that_is_read_and_serialises(base: Path, tmp_path: Path):
    tokens = {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": normal(1, HIDDEN)}
    norms = {f"{QUERY}.lora_magnitude_vector": normal(HIDDEN)}
    tensors = lora(QUERY) | norms | tokens
    adapter = write_adapter(tmp_path / "adapter", tensors, trainable_token_indices=[1], use_dora=True)
    plan = plan_conversion(base, adapter=adapter)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    ops = {tensor.name: [type(op).__name__ for op in tensor.ops] for tensor in plan.tensors if tensor.ops}
    assert ops == {f"{EMBEDDING}.weight": ["SetRows"], f"{QUERY}.weight": ["AddLowRank", "SetNorms"]}
    read = {source.path for tensor in plan.tensors for source in tensor.inputs}
    assert read == {str(base / "model.safetensors"), str(adapter / "adapter_model.safetensors")}


def test_merge_needs_no_torch(base: Path, tmp_path: Path):
    code = """
import sys
from tune_checkpoint.peft.merge import merge_adapter
merge_adapter(*sys.argv[1:])
assert not {"torch", "peft", "transformers"} & sys.modules.keys()
"""
    adapter = write_adapter(tmp_path / "adapter", lora(QUERY))
    command = [sys.executable, "-c", code, str(base), str(adapter), str(tmp_path / "out")]
    subprocess.run(command, check=True)
    assert (load_file(tmp_path / "out" / "model.safetensors")[f"{QUERY}.weight"] != 0).all()
