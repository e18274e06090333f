"""Converting Meta's checkpoints to Hugging Face folders."""

import json
import subprocess
import sys
from base64 import b64encode
from math import prod
from pathlib import Path
from typing import Any, Literal

import pytest
import sentencepiece
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from meta_checkpoints import MetaModel, Weights, hf_weights, random_weights, write_meta
from tune_checkpoint import (
    CheckpointError,
    CorruptFileError,
    UnsupportedCheckpointError,
    convert,
    open_checkpoint,
    plan_conversion,
)
from tune_checkpoint.errors import CheckpointNotFoundError
from tune_checkpoint.kinds import detect_kind
from tune_checkpoint.meta.assemble import Parts, decoder_sizes, plan_decoder
from tune_checkpoint.meta.decoder import DecoderSizes, StatedSizes, decoder_tensors
from tune_checkpoint.meta.params import read_params
from tune_checkpoint.plan import TensorSlice

LLAMA3 = {"rope_theta": 500000.0}
SCALED = LLAMA3 | {"use_scaled_rope": True}


def write(folder: Path, model: MetaModel | None = None, **options: Any) -> tuple[MetaModel, Weights]:
    model = model or MetaModel()
    weights = random_weights(model)
    write_meta(folder, model, weights, **options)
    return model, weights


def rewrite(path: Path, **changes: torch.Tensor | None) -> None:
    """Put tensors of a file in the place of others, or leave them out."""
    weights = torch.load(path) | changes
    torch.save({name: tensor for name, tensor in weights.items() if tensor is not None}, path)


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def assert_equal(written: Weights, expected: Weights) -> None:
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert written[name].dtype == tensor.dtype, name
        assert torch.equal(written[name], tensor), name


@pytest.mark.parametrize("num_parts", [1, 2, 4, 8])
@pytest.mark.parametrize("n_kv_heads", [None, 4, 1])
@pytest.mark.parametrize("embedding", ["rows", "columns"])
def test_parts_become_the_whole_bit_for_bit(
    tmp_path: Path, num_parts: int, n_kv_heads: int | None, embedding: Literal["rows", "columns"]
):
    model = MetaModel(n_kv_heads=n_kv_heads)
    _, weights = write(tmp_path / "src", model, num_parts=num_parts, embedding=embedding)
    assert detect_kind(tmp_path / "src") == "meta"
    result = convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))
    assert (result.kind, result.verified) == ("meta", True)
    config = config_of(tmp_path / "out")
    assert (config["num_key_value_heads"], config["vocab_size"]) == (n_kv_heads or 8, 96)
    assert (config["intermediate_size"], config["head_dim"]) == (256, 8)


def test_one_file_stands_for_all_parts(tmp_path: Path):
    model, weights = write(tmp_path, num_parts=2)
    convert(tmp_path / "consolidated.01.pth", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))


def test_heads_may_have_copies_in_every_part(tmp_path: Path):
    model = MetaModel(n_kv_heads=2)
    _, weights = write(tmp_path / "src", model, num_parts=4)
    for part in range(4):
        copies = {name: weights[name] for name in weights if "wk" in name or "wv" in name}
        rewrite(tmp_path / "src" / f"consolidated.{part:02}.pth", **copies)
    convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))


def test_dtype_casts_every_weight(tmp_path: Path):
    model, weights = write(tmp_path / "src", num_parts=2)
    convert(tmp_path / "src", tmp_path / "out", dtype="fp32")
    expected = {name: tensor.float() for name, tensor in hf_weights(model, weights).items()}
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), expected)
    assert config_of(tmp_path / "out")["dtype"] == config_of(tmp_path / "out")["torch_dtype"] == "float32"


def test_tables_of_rotary_frequencies_are_left_out(tmp_path: Path):
    model, weights = write(tmp_path / "src")
    freqs = {f"layers.{n}.attention.inner_attention.rope.freqs": torch.ones(4) for n in range(2)}
    rewrite(tmp_path / "src" / "consolidated.00.pth", **freqs)
    convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))


@pytest.mark.parametrize("num_parts", [1, 2])
def test_head_that_lies_where_the_embedding_does_is_written_once(tmp_path: Path, num_parts: int):
    model = MetaModel(is_tied=True, params=SCALED)
    _, weights = write(tmp_path / "src", model, num_parts=num_parts)
    convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))
    config = config_of(tmp_path / "out")
    assert config["tie_word_embeddings"] is True
    assert config["rope_scaling"]["factor"] == config["rope_parameters"]["factor"] == 32.0
    assert config["rope_parameters"] == config["rope_scaling"] | LLAMA3


@pytest.mark.parametrize("num_parts", [1, 2])
def test_head_that_is_a_copy_of_the_embedding_is_the_embedding(tmp_path: Path, num_parts: int):
    model = MetaModel(is_tied=True, params=SCALED)
    _, weights = write(tmp_path / "src", model, num_parts=num_parts)
    for path in (tmp_path / "src").glob("*.pth"):
        rewrite(path, **{"output.weight": torch.load(path)["tok_embeddings.weight"].clone()})
    result = convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))
    config = config_of(tmp_path / "out")
    assert (config["tie_word_embeddings"], config["rope_scaling"]["factor"]) == (True, 32.0)
    assert any("taken from Llama 3.2, since" in warning for warning in result.warnings)


def test_head_that_differs_in_its_last_number_stays(tmp_path: Path):
    model, weights = write(tmp_path / "src", MetaModel(vocab_size=40960, params=SCALED))
    weights["output.weight"] = weights["tok_embeddings.weight"].clone()
    weights["output.weight"][-1, -1] += 1
    rewrite(tmp_path / "src" / "consolidated.00.pth", **weights)
    convert(tmp_path / "src", tmp_path / "out")
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), hf_weights(model, weights))
    assert config_of(tmp_path / "out")["rope_scaling"]["factor"] == 8.0


@pytest.mark.parametrize(
    ("dtype", "params", "context", "factor", "eos"),
    [
        (torch.float16, {"norm_eps": 1e-6}, 2048, None, 2),
        (torch.bfloat16, {}, 4096, None, 2),
        (torch.bfloat16, {"rope_theta": 1000000}, 16384, None, 2),
        (torch.bfloat16, LLAMA3, 8192, None, 128001),
        (torch.bfloat16, SCALED, 131072, 8.0, 128001),
        (torch.bfloat16, SCALED | {"rope_scaling_factor": 16}, 131072, 16.0, 128001),
        (torch.bfloat16, {"max_position_embeddings": 1234}, 1234, None, 2),
    ],
)
def test_config_says_what_its_generation_of_llama_has(
    tmp_path: Path, dtype: torch.dtype, params: dict[str, Any], context: int, factor: float | None, eos: int
):
    write(tmp_path / "src", MetaModel(params=params, dtype=dtype))
    result = convert(tmp_path / "src", tmp_path / "out")
    config = config_of(tmp_path / "out")
    scaling = None if factor is None else config["rope_scaling"]["factor"]
    assert (config["max_position_embeddings"], scaling, config["eos_token_id"]) == (context, factor, eos)
    assert config["rms_norm_eps"] == params.get("norm_eps", 1e-5)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == params.get("rope_theta", 1e4)
    assert config_of(tmp_path / "out", "generation_config.json")["eos_token_id"] == eos
    (assumed,) = [text for text in result.warnings if "does not state" in text] or [""]
    assert (f"max_position_embeddings {context}" in assumed) == ("max_position_embeddings" not in params)
    is_guess = factor is not None and "rope_scaling_factor" not in params
    assert (f"a rotary factor of {factor or 0:g}" in assumed) == is_guess


def test_sizes_may_stand_below_model(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "params.json").write_text(json.dumps({"model": MetaModel().params_json()}))
    assert plan_conversion(tmp_path).architecture == "LlamaForCausalLM"


def test_unknown_keys_are_named(tmp_path: Path):
    write(tmp_path, MetaModel(params={"use_biscuits": True}))
    assert (
        "params.json: 'use_biscuits' is not known here, and was left out"
        in plan_conversion(tmp_path).warnings
    )


@pytest.fixture(scope="module")
def tokenizer_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "text"),
        model_prefix=str(folder / "m"),
        vocab_size=40,
        model_type="bpe",
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return (folder / "m.model").read_bytes()


@pytest.mark.parametrize("place", ["src/tokenizer.model", "tokenizer.model"])
def test_tokenizer_comes_along_also_from_the_folder_above(tmp_path: Path, tokenizer_model: bytes, place: str):
    write(tmp_path / "src", MetaModel(vocab_size=40))
    (tmp_path / place).write_bytes(tokenizer_model)
    (tmp_path / "src" / "USE_POLICY.md").write_text("Be kind.")
    result = convert(tmp_path / "src", tmp_path / "out")
    assert result.files[-4:] == (
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "USE_POLICY.md",
    )
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == tokenizer_model
    assert config_of(tmp_path / "out")["bos_token_id"] == 1
    assert not any(warning.startswith("tokenizer.json: no") for warning in result.warnings)


def test_tokenizer_of_another_model_in_the_folder_above_is_left_there(tmp_path: Path, tokenizer_model: bytes):
    write(tmp_path / "src", MetaModel(vocab_size=48))
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model)
    assert any("no tokenizer.model beside" in text for text in plan_conversion(tmp_path / "src").warnings)


def test_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(
    tmp_path: Path, tokenizer_model: bytes
):
    write(tmp_path, MetaModel(vocab_size=32))
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model)
    with pytest.raises(CorruptFileError, match=r"tokenizer.model: 40 tokens, but the embedding has 32 rows"):
        plan_conversion(tmp_path)


@pytest.mark.parametrize(
    ("params", "ends", "pad"),
    [(LLAMA3, [257, 265], None), (SCALED, [257, 264, 265], "<|finetune_right_pad_id|>")],
)
def test_tokenizer_of_llama3_gives_the_ids_of_its_generation(
    tmp_path: Path, params: dict[str, Any], ends: list[int], pad: str | None
):
    write(tmp_path / "src", MetaModel(vocab_size=512, params=params))
    ranks = "".join(f"{b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))
    (tmp_path / "src" / "tokenizer.model").write_text(ranks)
    convert(tmp_path / "src", tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (256, 257, None)
    assert config_of(tmp_path / "out", "generation_config.json")["eos_token_id"] == ends
    assert config_of(tmp_path / "out", "tokenizer_config.json").get("pad_token") == pad


def test_tokenizer_of_another_kind_is_named_in_a_warning(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "tokenizer.model").write_text("not a tokenizer at all")
    assert any(warning.startswith("tokenizer.json: ") for warning in plan_conversion(tmp_path).warnings)


def test_missing_tokenizer_is_named_in_a_warning(tmp_path: Path):
    write(tmp_path)
    assert any("no tokenizer.model beside the weights" in text for text in plan_conversion(tmp_path).warnings)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("consolidated.01.pth", r"consolidated.01.pth is missing, though later files are there"),
        ("consolidated.03.pth", r"3 parts with 16 rows of 'layers.0.attention.wq.weight'.*makes 4 parts"),
        ("params.json", r"params.json: cannot be read"),
    ],
)
def test_missing_file_is_named(tmp_path: Path, gone: str, message: str):
    write(tmp_path, num_parts=4)
    (tmp_path / gone).unlink()
    with pytest.raises((CorruptFileError, CheckpointNotFoundError), match=message):
        plan_conversion(tmp_path, kind="meta")


def test_file_of_another_model_is_named(tmp_path: Path):
    write(tmp_path, num_parts=2)
    write(tmp_path / "other", num_parts=4)
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
    write(tmp_path, num_parts=2)
    rewrite(tmp_path / "consolidated.01.pth", **changes)
    with pytest.raises(error, match=message):
        plan_conversion(tmp_path)


def test_head_must_be_there_even_if_it_is_the_embedding(tmp_path: Path):
    write(tmp_path)
    rewrite(tmp_path / "consolidated.00.pth", **{"output.weight": None})
    with pytest.raises(CorruptFileError, match=r"tensor 'output.weight' is missing"):
        plan_conversion(tmp_path)


def test_matrix_that_every_part_has_whole_is_refused(tmp_path: Path):
    _, weights = write(tmp_path, num_parts=2)
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
    write(tmp_path)
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
    write(tmp_path, MetaModel(params=params))
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


@pytest.mark.parametrize("target", ["hf", "meta"])
def test_plan_is_made_without_numpy(tmp_path: Path, target: str):
    write(tmp_path, num_parts=2)
    code = """
import sys
from tune_checkpoint import plan_conversion
plan_conversion(sys.argv[1], to=sys.argv[2])
print(*{"numpy", "torch", "gguf"}.intersection(sys.modules))
"""
    command = [sys.executable, "-c", code, str(tmp_path), target]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == []


def test_nothing_of_the_source_is_changed(tmp_path: Path):
    write(tmp_path / "src", num_parts=2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "src").iterdir()}
    convert(tmp_path / "src", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "src").iterdir()} == before
    assert len(open_checkpoint(tmp_path / "out")) == 21
