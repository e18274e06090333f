"""Meta's checkpoints that are damaged or not whole, and sizes that cannot be."""

import json
import os
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meta_checkpoints import MetaModel, rewrite, write_random
from tune_checkpoint import CheckpointError, CorruptFileError, UnsupportedCheckpointError, plan_conversion
from tune_checkpoint.errors import CheckpointNotFoundError
from tune_checkpoint.meta.assemble import Parts, decoder_sizes, plan_decoder
from tune_checkpoint.meta.decoder import DecoderSizes, StatedSizes, decoder_tensors
from tune_checkpoint.meta.params import read_params
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.planning import MAX_SIDE_BYTES


def test_params_of_no_small_size_are_not_read(tmp_path: Path):
    (tmp_path / "params.json").touch()
    os.truncate(tmp_path / "params.json", MAX_SIDE_BYTES + 1)
    with pytest.raises(CorruptFileError, match=r"params.json: has 100000001 bytes"):
        read_params(tmp_path)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("consolidated.01.pth", r"consolidated.01.pth is missing, though later files are there"),
        ("consolidated.03.pth", r"3 parts with 16 rows of 'layers.0.attention.wq.weight'.*makes 4 parts"),
        ("params.json", r"params.json: cannot be read"),
    ],
)
def test_missing_file_is_named(tmp_path: Path, gone: str, message: str):
    write_random(tmp_path, num_parts=4)
    (tmp_path / gone).unlink()
    with pytest.raises((CorruptFileError, CheckpointNotFoundError), match=message):
        plan_conversion(tmp_path, kind="meta")


def test_file_of_another_model_is_named(tmp_path: Path):
    write_random(tmp_path, num_parts=2)
    write_random(tmp_path / "other", num_parts=4)
    (tmp_path / "other" / "consolidated.03.pth").rename(tmp_path / "consolidated.02.pth")
    with pytest.raises(
        CorruptFileError, match=r"consolidated.02.pth: tensor .*; the files are not of one model"
    ):
        plan_conversion(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"norm.weight": None}, CorruptFileError, r"01.pth: tensor 'norm.weight' is missing"),
        ({"output.weight": None}, CorruptFileError, r"01.pth: tensor 'output.weight' is missing"),
        (
            {"layers.1.feed_forward.w2.weight": torch.ones(64, 64, dtype=torch.bfloat16)},
            CorruptFileError,
            r"01.pth: tensor 'layers.1.feed_forward.w2.weight' is BF16 \[64, 64\], but BF16 \[64, 128\] in",
        ),
        (
            {"norm.weight": torch.ones(64)},
            CorruptFileError,
            r"01.pth: tensor 'norm.weight' is F32 \[64\], but BF16 \[64\] in consolidated.00.pth",
        ),
        (
            {"layers.2.attention.wq.weight": torch.ones(32, 64)},
            UnsupportedCheckpointError,
            r"1 tensors are no part of a Llama model \(layers.2.attention.wq.weight\)",
        ),
    ],
)
def test_part_that_differs_is_named(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
):
    write_random(tmp_path, num_parts=2)
    rewrite(tmp_path / "consolidated.01.pth", **changes)
    with pytest.raises(error, match=message):
        plan_conversion(tmp_path)


def test_head_must_be_there_even_if_it_is_the_embedding(tmp_path: Path):
    write_random(tmp_path)
    rewrite(tmp_path / "consolidated.00.pth", **{"output.weight": None})
    with pytest.raises(CorruptFileError, match=r"tensor 'output.weight' is missing"):
        plan_conversion(tmp_path)


def test_matrix_that_every_part_has_whole_is_refused(tmp_path: Path):
    _, weights = write_random(tmp_path, num_parts=2)
    name = "layers.0.feed_forward.w2.weight"
    for part in range(2):
        rewrite(tmp_path / f"consolidated.{part:02}.pth", **{name: weights[name]})
    with pytest.raises(CorruptFileError, match=r"has shape \[64, 256\] in each of 2 parts"):
        plan_conversion(tmp_path)


SIZES = DecoderSizes(32, 16, 64, 1, 4, 2, 4, is_tied=False)
DIMENSION = st.sampled_from([0, 1, 4, 8, 16, 32, 64])


@given(
    num_parts=st.sampled_from([1, 2, 4]),
    by_columns=st.booleans(),
    changes=st.dictionaries(
        st.sampled_from([name for name, _, _ in decoder_tensors(1, is_tied=False)]),
        st.lists(DIMENSION, max_size=3).map(tuple),
        max_size=2,
    ),
)
def test_any_shapes_are_joined_or_refused(
    num_parts: int, by_columns: bool, changes: dict[str, tuple[int, ...]]
):
    shapes: dict[str, tuple[int, ...]] = {}
    for name, _, letters in decoder_tensors(1, is_tied=False):
        shape = list(SIZES.dims(letters))
        if len(shape) == 2:
            shape[letters[0] == "H" or (by_columns and name == "tok_embeddings.weight")] //= num_parts
        shapes[name] = tuple(shape)
    shapes |= changes
    parts = [
        (Path(f"{part}.pth"), [TensorSlice("x", name, "I8", shapes[name], 0, 0) for name in shapes])
        for part in range(num_parts)
    ]
    try:
        whole = Parts(Path("src"), parts)
        sizes = decoder_sizes(whole, StatedSizes(16, 1, 4, 2, 4), needs_head=True)
        plans = plan_decoder(whole, sizes, None)
    except CheckpointError:
        assert changes
        return
    for tensor in plans:
        assert prod(tensor.shape) == sum(prod(source.shape) for source in tensor.sources)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("norm.weight", (32,), r"'norm.weight' has shape \[32\]; the sizes of the model make it \[64\]"),
        ("tok_embeddings.weight", (96,), r"'tok_embeddings.weight' has shape \[96\]; it is to be a matrix"),
        ("layers.0.attention.wq.weight", (48, 64), r"not of one model"),
        ("layers.0.attention.wq.weight", (0, 64), r"has shape \[0, 64\]; it is to be a matrix"),
        ("layers.0.attention.wk.weight", (32, 64), r"has shape \[32, 64\]; the sizes.*make it \[64, 64\]"),
        ("layers.1.attention.wo.weight", (64, 64, 1), r"has shape \[64, 64, 1\]; the sizes"),
        ("output.weight", (95, 64), r"has shape \[95, 64\]; the sizes of the model make it \[96, 64\]"),
    ],
)
def test_shape_that_the_sizes_exclude_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], message: str
):
    write_random(tmp_path)
    rewrite(tmp_path / "consolidated.00.pth", **{name: torch.ones(shape, dtype=torch.bfloat16)})
    with pytest.raises(CorruptFileError, match=message):
        plan_conversion(tmp_path)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"n_heads": 0}, CorruptFileError, r"params.json: Expected `int` >= 1 - at `\$.n_heads`"),
        ({"n_kv_heads": 3}, CorruptFileError, "8 query heads .* do not share 3 key-value heads"),
        ({"dim": 60}, CorruptFileError, "dim 60 is no multiple of n_heads 8"),
        ({"head_dim": 7}, CorruptFileError, "a head of 7 elements cannot be rotated"),
        ({"dim": "64"}, CorruptFileError, r"Expected `int`, got `str` - at `\$.dim`"),
        ({"norm_eps": -1}, CorruptFileError, r"Expected `float` > 0"),
        ({"vocab_size": 95}, CorruptFileError, "vocab_size is 95, but the weights have 96"),
        ({"n_layers": 3}, CorruptFileError, r"tensor 'layers.2.attention.wq.weight' is missing"),
        ({"n_layers": 1 << 40}, CorruptFileError, r"tensor 'layers.2.attention.wq.weight' is missing"),
        ({"n_layers": 1}, UnsupportedCheckpointError, r"9 tensors are no part of a Llama model"),
        ({"moe": {"num_experts": 8}}, UnsupportedCheckpointError, r"a mixture of experts \(moe\)"),
        ({"vision_chunk_size": 448}, UnsupportedCheckpointError, r"a vision encoder \(vision_chunk_size\)"),
        ({"quantization_args": {"group": 32}}, UnsupportedCheckpointError, r"quantised weights"),
        ({"model_type": "mamba"}, UnsupportedCheckpointError, "model_type is 'mamba'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(
    tmp_path: Path, params: dict[str, Any], error: type[Exception], message: str
):
    write_random(tmp_path, MetaModel(params=params))
    with pytest.raises(error, match=message):
        plan_conversion(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "nonsense", '{"dim": 1e999}', '{"dim": 64}', "[" * 100_000])
def test_damaged_params_are_refused(tmp_path: Path, text: str):
    (tmp_path / "params.json").write_text(text)
    with pytest.raises(CorruptFileError, match=r"params\.json: "):
        read_params(tmp_path)


@given(
    st.dictionaries(
        st.sampled_from([*MetaModel().params_json(), "n_kv_heads", "moe", "model", "sliding_window", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
            max_leaves=3,
        ),
    )
)
def test_any_params_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]):
    folder = tmp_path_factory.mktemp("params")
    (folder / "params.json").write_text(json.dumps(MetaModel().params_json() | changes))
    try:
        params, _ = read_params(folder)
    except CheckpointError:
        return
    assert params.head_size > 0
    assert params.n_heads % params.kv_heads == 0
