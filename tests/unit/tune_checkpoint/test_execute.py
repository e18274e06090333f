"""Output tensors are what numpy makes of the same sources, in whatever blocks they are made."""

import os
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tune_checkpoint import CorruptFileError, ReadFailedError, UnsupportedCheckpointError, execute
from tune_checkpoint.dtypes import numpy_dtype
from tune_checkpoint.execute import tensor_blocks
from tune_checkpoint.plan import Cast, ReorderHeads, TensorPlan, TensorSlice
from tune_checkpoint.sources import Sources

RANDOM = np.random.default_rng(7)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that small tensors have many."""
    monkeypatch.setattr(execute, "BLOCK_BYTES", 96)
    monkeypatch.setattr(execute, "COPY_BYTES", 50)


def stored(path: Path, values: np.ndarray, dtype: str = "F32") -> TensorSlice:
    """A tensor in a file of its own, behind a few other bytes."""
    content = values.tobytes()
    path.write_bytes(b"before" + content + b"behind")
    return TensorSlice(str(path), path.name, dtype, values.shape, 6, len(content))


def made(tensor: TensorPlan) -> bytes:
    with Sources() as sources:
        return b"".join(bytes(block) for block in tensor_blocks(tensor, sources))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("num_sources", [1, 2, 4])
def test_sources_are_put_together_as_numpy_concatenates(
    tmp_path: Path, axis: Literal[0, 1], num_sources: int
):
    parts = [RANDOM.standard_normal((11, 5), np.float32) for _ in range(num_sources)]
    whole = np.concatenate(parts, axis)
    slices = tuple(stored(tmp_path / f"{index}", part) for index, part in enumerate(parts))
    assert made(TensorPlan("x", "F32", whole.shape, slices, axis)) == whole.tobytes()
    half = TensorPlan("x", "F16", whole.shape, slices, axis, (Cast("F16"),))
    assert made(half) == whole.astype(np.float16).tobytes()


@pytest.mark.usefixtures("small_blocks")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.integers(1, 6),
    pairs=st.integers(1, 9),
    columns=st.integers(1, 20),
    num_sources=st.sampled_from([1, 2, 3]),
    axis=st.sampled_from([0, 1]),
)
def test_heads_are_reordered_as_transformers_does_whatever_the_blocks(
    tmp_path: Path, heads: int, pairs: int, columns: int, num_sources: int, axis: Literal[0, 1]
):
    shape = (heads * num_sources * pairs * 2, columns * num_sources)
    whole = RANDOM.standard_normal(shape, np.float32)
    parts = np.split(whole, num_sources, axis)
    slices = tuple(stored(tmp_path / f"{index}", part) for index, part in enumerate(parts))
    num_heads = heads * num_sources
    # As convert_llama_weights_to_hf.py has it.
    halves = whole.reshape(num_heads, pairs, 2, -1).transpose(0, 2, 1, 3).reshape(shape)
    to_halves, to_pairs = ReorderHeads(num_heads, "halves"), ReorderHeads(num_heads, "pairs")
    assert made(TensorPlan("q", "F32", shape, slices, axis, (to_halves,))) == halves.tobytes()
    assert made(TensorPlan("q", "F32", shape, slices, axis, (to_halves, to_pairs))) == whole.tobytes()


@pytest.mark.usefixtures("small_blocks")
def test_vectors_are_reordered_element_by_element(tmp_path: Path):
    bias = RANDOM.standard_normal(48, np.float32)
    plan = TensorPlan("b", "F32", (48,), (stored(tmp_path / "b", bias),), ops=(ReorderHeads(3, "halves"),))
    assert made(plan) == bias.reshape(3, 8, 2).swapaxes(1, 2).tobytes()


@pytest.mark.usefixtures("small_blocks")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_strided_tensors_come_out_in_c_order(tmp_path: Path, data: st.DataObject):
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4), label="shape"))
    axes = data.draw(st.permutations(range(len(shape))), label="axes")
    base = RANDOM.standard_normal(shape, np.float32)
    view = base.transpose(axes)
    strides = tuple(stride // 4 for stride in view.strides)
    source = stored(tmp_path / "base", base)
    source = TensorSlice(source.path, "x", "F32", view.shape, source.offset, source.nbytes, strides)
    assert made(TensorPlan("x", "F32", view.shape, (source,))) == view.tobytes()
    cast = TensorPlan("x", "BF16", view.shape, (source,), ops=(Cast("BF16"),))
    assert made(cast) == view.astype(ml_dtypes.bfloat16).tobytes()


@pytest.mark.usefixtures("small_blocks")
def test_a_thin_slice_of_a_wide_tensor_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tune_checkpoint.sources.SPAN_BYTES", 500)
    base = RANDOM.standard_normal((40, 30), np.float32)
    whole = stored(tmp_path / "base", base)

    def sliced(view: np.ndarray, strides: tuple[int, ...]) -> TensorPlan:
        source = TensorSlice(whole.path, "x", "F32", view.shape, whole.offset, view.nbytes, strides)
        return TensorPlan("x", "F32", view.shape, (source,))

    assert made(sliced(base[:, :3], (30, 1))) == base[:, :3].tobytes()
    with pytest.raises(
        UnsupportedCheckpointError, match=r"'x' has the elements of a row scattered over 4684"
    ):
        made(sliced(base[:, :2].T, (1, 30)))


def test_a_transposed_tensor_in_a_file_that_became_shorter_is_told(tmp_path: Path):
    source = stored(tmp_path / "x", np.ones((10, 20), np.float32))
    os.truncate(source.path, 300)
    turned = TensorSlice(source.path, "x", "F32", (20, 10), source.offset, source.nbytes, (1, 20))
    with pytest.raises(CorruptFileError, match=r"x: ends at byte 300, before the end of tensor 'x'"):
        made(TensorPlan("x", "F32", (20, 10), (turned,)))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 4)])
def test_scalars_and_empty_tensors_pass(tmp_path: Path, shape: tuple[int, ...]):
    values = np.ones(shape, np.float32)
    source = stored(tmp_path / "x", values)
    ops: tuple[Any, ...]
    for ops, dtype in (((), "F32"), ((Cast("F16"),), "F16")):
        expected = values.astype(np.float16 if ops else np.float32)
        assert made(TensorPlan("x", dtype, shape, (source,), ops=ops)) == expected.tobytes()


@pytest.mark.parametrize(
    ("value", "source", "target", "advice"),
    [
        (1e6, "F32", "F16", "convert to bf16 or fp32 instead"),
        (1e6, "BF16", "F16", "convert to bf16 or fp32 instead"),
        (-3.4e38, "F32", "BF16", "convert to fp32 instead"),
        (1e300, "F64", "F32", "keep the type that they have"),
    ],
)
def test_values_that_would_become_infinite_are_refused(
    tmp_path: Path, value: float, source: str, target: str, advice: str
):
    tensor = stored(tmp_path / "x", np.array([[1.0, value]], numpy_dtype(source)), source)
    with pytest.raises(UnsupportedCheckpointError, match=rf"'x' holds values beyond .* {target}.*; {advice}"):
        made(TensorPlan("x", target, (1, 2), (tensor,), ops=(Cast(target),)))


@pytest.mark.parametrize("source", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("target", ["F32", "F16", "BF16"])
def test_what_is_not_finite_stays_so(tmp_path: Path, source: str, target: str):
    values = np.array([[1.0, np.inf, -np.inf, np.nan]]).astype(numpy_dtype(source))
    tensor = stored(tmp_path / "x", values, source)
    content = made(TensorPlan("x", target, (1, 4), (tensor,), ops=(Cast(target),)))
    rounded = np.frombuffer(content, numpy_dtype(target)).astype(np.float64)
    np.testing.assert_array_equal(rounded, [1.0, np.inf, -np.inf, np.nan])


def test_a_file_that_became_shorter_is_named_with_the_place(tmp_path: Path):
    source = stored(tmp_path / "x", np.ones(100, np.float32))
    with Path(source.path).open("r+b") as file:
        file.truncate(200)
    with pytest.raises(CorruptFileError, match=r"x: ends at byte 200, before the end of tensor 'x'"):
        made(TensorPlan("x", "F32", (100,), (source,)))


def test_a_source_that_the_system_cannot_read_is_named_with_the_place(tmp_path: Path):
    folder = TensorSlice(str(tmp_path), "x", "F32", (100,), 8, 400)  # which opens, and cannot be read
    with pytest.raises(ReadFailedError, match=r": tensor 'x' cannot be read at byte 8: Is a directory"):
        made(TensorPlan("x", "F32", (100,), (folder,)))
