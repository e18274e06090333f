"""How `diff` compares two checkpoints, against numpy's arithmetic in float64."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save_file

from meta_checkpoints import MetaModel, hf_weights, random_weights, write_meta
from small_llama import CONFIG, LAYERS, Weights, small_weights, write_folder
from tune_checkpoint import (
    CheckpointNotFoundError,
    Difference,
    UnsupportedCheckpointError,
    convert,
    diff,
)
from tune_checkpoint._diff import OnlyIn, TensorDifference
from tune_checkpoint.comparing import BLOCK_ELEMENTS
from tune_checkpoint.text import difference_lines

WriteLlama = Callable[..., Any]
TIMES = "\N{MULTIPLICATION SIGN}"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def saved(path: Path, weights: Weights) -> Path:
    save_file(weights, path)
    return path


def compared(folder: Path, a: np.ndarray, b: np.ndarray) -> TensorDifference | None:
    """What is different about two arrays; None if nothing is."""
    found = diff(saved(folder / "a.safetensors", {"x": a}), saved(folder / "b.safetensors", {"x": b}))
    assert found.identical is not bool(found.tensors)
    return found.tensors[0] if found.tensors else None


def test_same_weights_in_other_files_are_identical(tmp_path: Path):
    weights = small_weights(np.float16)
    found = diff(write_folder(tmp_path / "a", weights), write_folder(tmp_path / "b", weights, num_shards=3))
    assert found.identical
    assert (found.num_common, found.left_out) == (len(weights), ())
    assert found.num_elements == sum(array.size for array in weights.values())
    assert found.nbytes == 2 * sum(array.nbytes for array in weights.values())


def test_changed_values_are_measured(tmp_path: Path):
    weights = small_weights()
    a = write_folder(tmp_path / "a", weights)
    changed = weights[Q_PROJ].copy()
    changed[0, :3] += np.array([0.5, -2.0, 0.25], np.float32)
    found = diff(a, write_folder(tmp_path / "b", weights | {Q_PROJ: changed}))
    x, y = weights[Q_PROJ].astype(np.float64), changed.astype(np.float64)
    relative = np.abs(x - y) / np.maximum(np.abs(x), np.abs(y))
    (tensor,) = found.tensors
    assert tensor == TensorDifference(
        Q_PROJ, "F32", "F32", x.shape, y.shape, 3, np.abs(x - y).max(), relative.max(), 0
    )


WIDTHS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
values = st.floats(-60000, 60000, width=16) | st.sampled_from([0.0, -0.0, np.nan, np.inf, -np.inf])


@st.composite
def two_arrays(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two of one shape, mostly equal, of types that may differ."""
    a = draw(arrays(np.float16, array_shapes(min_dims=0, min_side=0, max_side=6), elements=values))
    b = np.array(a)
    for position in draw(st.lists(st.integers(0, max(0, a.size - 1)), max_size=4)) if a.size else ():
        b.reshape(-1)[position] = draw(values)
    kind_a, kind_b = draw(st.sampled_from(WIDTHS)), draw(st.sampled_from(WIDTHS))
    return a.astype(kind_a), b.astype(kind_b)


@given(two_arrays())
def test_differences_are_numpys(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[np.ndarray, np.ndarray]
):
    found = compared(tmp_path_factory.mktemp("pair"), *pair)
    x, y = (array.astype(np.float64) for array in pair)
    nan = np.isnan(x), np.isnan(y)
    differs = (x != y) & ~(nan[0] & nan[1])
    if not differs.any() and pair[0].dtype == pair[1].dtype:
        assert found is None
        return
    assert found is not None
    assert (found.num_different, found.num_nan) == (differs.sum(), (nan[0] ^ nan[1]).sum())
    differs &= ~(nan[0] | nan[1])
    apart = np.abs(x[differs] - y[differs])
    relative = [
        np.inf if np.isinf(gap) else gap / max(abs(p), abs(q))
        for gap, p, q in zip(apart, x[differs], y[differs], strict=True)
    ]
    assert found.max_abs == max(apart, default=0)
    assert found.max_rel == max(relative, default=0)


def test_zeros_of_both_signs_and_all_kinds_of_nan_are_equal(tmp_path: Path):
    a = np.array([0.0, np.nan], np.float32)
    b = np.array([-0.0, 0.0], np.float32)
    b.view(np.uint32)[1] = 0xFFC0_0001
    assert a.tobytes() != b.tobytes()
    assert compared(tmp_path, a, b) is None


def test_whole_numbers_are_told_apart_beyond_the_precision_of_floats(tmp_path: Path):
    a = np.array([2**62, 5, 7])
    found = compared(tmp_path, a, np.array([2**62 + 1, 5, 4]))
    assert found is not None
    assert (found.num_different, found.max_abs) == (2, 3.0)


def test_differences_beyond_the_first_block_are_found(tmp_path: Path):
    a = np.zeros((3, BLOCK_ELEMENTS // 2), np.float16)
    b = a.copy()
    b[2, -1], b[0, 0] = 4, 2
    found = compared(tmp_path, a, b)
    assert found is not None
    assert (found.num_different, found.max_abs, found.max_rel) == (2, 4.0, 1.0)
    wide = compared(tmp_path, a.astype(np.float64), b)  # blocks of the two end at different elements
    assert wide is not None
    assert (wide.dtype_a, wide.dtype_b, wide.num_different) == ("F64", "F16", 2)


def test_equal_values_of_another_type_are_a_difference_of_type_alone(tmp_path: Path):
    a = np.arange(5, dtype=np.float32)
    found = compared(tmp_path, a, a.astype(ml_dtypes.bfloat16))
    assert found == TensorDifference("x", "F32", "BF16", (5,), (5,), 0, 0.0, 0.0, 0)


def test_names_and_shapes_that_differ_are_listed(tmp_path: Path):
    a = saved(tmp_path / "a.safetensors", {"x": np.zeros((2, 3)), "y": np.zeros(4), "z": np.ones(2)})
    b = saved(
        tmp_path / "b.safetensors", {"x": np.zeros((3, 2)), "new": np.zeros(1, np.float16), "z": np.ones(2)}
    )
    found = diff(a, b)
    assert found.only_in_a == (OnlyIn("y", "F64", (4,)),)
    assert found.only_in_b == (OnlyIn("new", "F16", (1,)),)
    assert found.tensors == (TensorDifference("x", "F64", "F64", (2, 3), (3, 2), None, None, None, None),)
    assert not found.identical


def test_torch_file_is_identical_to_what_it_is_converted_to(tmp_path: Path):
    weights = {name: torch.from_numpy(array) for name, array in small_weights().items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    weights[Q_PROJ] = weights[Q_PROJ].T.contiguous().T  # elements in another order in the file
    (tmp_path / "a").mkdir()
    torch.save(weights, tmp_path / "a" / "pytorch_model.bin")
    (tmp_path / "a" / "config.json").write_text(json.dumps(CONFIG))
    convert(tmp_path / "a", tmp_path / "b")
    found = diff(tmp_path / "a", tmp_path / "b")
    assert found.identical
    assert found.left_out == ("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    assert diff(tmp_path / "b", tmp_path / "a").left_out == found.left_out


@pytest.mark.parametrize("quant", ["F32", "BF16", "Q8_0"])
def test_gguf_file_is_identical_to_what_it_is_converted_to(
    write_llama: WriteLlama, tmp_path: Path, quant: str
):
    path = write_llama(quant=quant, tied=False).path
    convert(path, tmp_path / "out")
    found = diff(path, tmp_path / "out")
    assert found.identical
    assert found.num_common == 21
    rounded = diff(path, convert(path, tmp_path / "half", dtype="fp16").output_dir)
    embedding = next(t for t in rounded.tensors if t.name == "model.embed_tokens.weight")
    assert (embedding.dtype_a, embedding.dtype_b) == ("BF16" if quant == "BF16" else "F32", "F16")
    assert embedding.max_rel is not None
    assert embedding.max_rel <= 2**-11


def test_parts_of_a_meta_checkpoint_are_compared_as_a_whole(tmp_path: Path):
    model = MetaModel()
    weights = random_weights(model)
    write_meta(tmp_path / "two", model, weights, num_parts=2)
    write_meta(tmp_path / "four", model, weights, num_parts=4)
    assert diff(tmp_path / "two", tmp_path / "four").identical
    expected = hf_weights(model, weights)
    torch.save(expected, tmp_path / "hf.pt")
    found = diff(tmp_path / "two", tmp_path / "hf.pt")
    assert (found.identical, found.num_common) == (True, len(expected))
    name = "model.layers.1.self_attn.q_proj.weight"
    expected[name][0, 0] += 1
    torch.save(expected, tmp_path / "hf.pt")
    (tensor,) = diff(tmp_path / "four", tmp_path / "hf.pt").tensors
    assert (tensor.name, tensor.num_different) == (name, 1)


def test_two_gguf_files_are_compared_as_they_are(write_llama: WriteLlama, tmp_path: Path):
    a = write_llama(path=tmp_path / "a.gguf", quant="Q8_0").path
    same = write_llama(path=tmp_path / "same.gguf", quant="Q8_0").path
    assert diff(a, same).identical
    other = diff(a, write_llama(path=tmp_path / "b.gguf", quant="Q4_0").path)
    embedding = next(t for t in other.tensors if t.name == "token_embd.weight")
    assert (embedding.dtype_a, embedding.dtype_b) == ("Q8_0", "Q4_0")
    assert embedding.num_different is not None
    assert 0 < embedding.num_different <= 300 * 64
    assert {t.name for t in other.tensors if t.dtype_a == "F32"} == set()


def test_quantised_values_that_differ_in_one_block_are_found(write_llama: WriteLlama, tmp_path: Path):
    a = write_llama(path=tmp_path / "a.gguf", quant="Q8_0").path
    content = bytearray(a.read_bytes())
    content[-(64 * 4) - 3] ^= 1  # before the last vector: in the last block of a matrix
    (tmp_path / "b.gguf").write_bytes(content)
    (tensor,) = diff(a, tmp_path / "b.gguf").tensors
    assert (tensor.name, tensor.num_different) == ("blk.1.ffn_down.weight", 1)


def test_tied_head_that_one_side_leaves_out_is_not_missing(tmp_path: Path):
    weights = small_weights()
    stored = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].copy()}
    a, b = write_folder(tmp_path / "a", weights), write_folder(tmp_path / "b", stored)
    found = diff(a, b)
    assert (found.identical, found.left_out) == (True, ("lm_head.weight",))
    assert difference_lines(found) == [
        "identical: 30 tensors, 25,824 elements (lm_head.weight in one only, which loses nothing)"
    ]
    stored["lm_head.weight"][0, 0] += 1
    found = diff(write_folder(tmp_path / "b", stored), a)
    assert [(tensor.name, tensor.num_different) for tensor in found.tensors] == [("lm_head.weight", 1)]
    untied = CONFIG | {"tie_word_embeddings": False}
    found = diff(write_folder(tmp_path / "a", weights, untied), b)
    assert [tensor.name for tensor in found.only_in_b] == ["lm_head.weight"]


def test_head_of_a_gguf_file_that_repeats_the_embedding_is_not_missing(
    write_llama: WriteLlama, tmp_path: Path
):
    tied = write_llama(path=tmp_path / "a.gguf")
    embedding = tied.tensors["model.embed_tokens.weight"]
    both = write_llama(path=tmp_path / "b.gguf", extra={"output.weight": embedding})
    assert diff(tied.path, both.path).left_out == ("output.weight",)
    assert diff(tied.path, both.path).identical


def test_what_cannot_be_compared_raises(write_llama: WriteLlama, tmp_path: Path):
    with pytest.raises(CheckpointNotFoundError):
        diff(tmp_path / "nowhere", tmp_path)
    other = write_llama(arch="mamba").path
    with pytest.raises(UnsupportedCheckpointError, match="architecture 'mamba' cannot be converted"):
        diff(other, write_folder(tmp_path / "a", small_weights()))
    assert diff(other, other).identical


@pytest.mark.parametrize("jobs", [1, 3])
def test_progress_ends_where_it_said_it_would(write_llama: WriteLlama, tmp_path: Path, jobs: int):
    seen: list[tuple[int, int]] = []
    path = write_llama(quant="Q8_0").path
    convert(path, tmp_path / "out")
    found = diff(path, tmp_path / "out", jobs=jobs, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (found.nbytes, found.nbytes)


def test_result_is_json_and_comes_back_from_it(tmp_path: Path):
    a = saved(tmp_path / "a.safetensors", {"x": np.zeros(2), "y": np.zeros(1)})
    found = diff(a, saved(tmp_path / "b.safetensors", {"x": np.ones(2)}))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Difference) == found


def test_text_has_the_largest_difference_first_and_folds_layers(tmp_path: Path):
    a, b = small_weights(), small_weights()
    for n in range(LAYERS):
        b[f"model.layers.{n}.mlp.up_proj.weight"][0, 0] += 0.5 + n
        a[f"model.layers.{n}.mlp.down_proj.weight"][0, 0] = 8
        b[f"model.layers.{n}.mlp.down_proj.weight"][0, 0] = np.nan if n else 16
        b[f"model.layers.{n}.self_attn.k_proj.weight"] = np.zeros((2, 2), np.float32)
        a[f"model.layers.{n}.self_attn.k_proj.bias"] = np.zeros(16, np.float32)
        b[f"model.layers.{n}.input_layernorm.weight"] = a[f"model.layers.{n}.input_layernorm.weight"].astype(
            np.float64
        )
    found = diff(write_folder(tmp_path / "a", a), write_folder(tmp_path / "b", b))
    lines = [line.replace(TIMES, "*") for line in difference_lines(found)]
    assert lines[:2] == [f"A  {tmp_path / 'a'}", f"B  {tmp_path / 'b'}"]
    relative = max(t.max_rel or 0 for t in found.tensors if "up_proj" in t.name)
    assert lines[2:] == [
        "",
        "only in A: 3 tensors",
        "  model.layers.{0..2}.self_attn.k_proj.bias  [16]  F32  *3",
        "",
        "other shapes: 3 tensors",
        "  model.layers.{0..2}.self_attn.k_proj.weight  [16, 32] in A  [2, 2] in B  *3",
        "",
        "other types: 3 tensors",
        "  F32 in A, F64 in B  *3",
        "",
        "other values: 6 tensors",
        "                                            max abs  max rel  elements",
        "  model.layers.{0..2}.mlp.down_proj.weight  8        0.5      0.0651%   *3 2 NaN in one only",
        f"  model.layers.{{0..2}}.mlp.up_proj.weight    2.5      {relative:<7.3g}  0.0651%   *3",
        "",
        "29 tensors in both, 12 of them different; 3 only in A",
    ]
