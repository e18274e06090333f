"""What `verify` finds, and that it finds all of it."""

import json
import shutil
import subprocess
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from small_llama import CONFIG, VOCAB, small_weights, write_folder, write_index
from tune_checkpoint import (
    CheckpointNotFoundError,
    UnsupportedCheckpointError,
    Verification,
    open_checkpoint,
    verify,
)
from tune_checkpoint.checks.values import BLOCK_BYTES, count_values
from tune_checkpoint.dtypes import ITEM_BYTES, numpy_dtype
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.sources import Sources
from tune_checkpoint.text import verification_lines
from tune_checkpoint.write import Meter

WriteLlama = Callable[..., Any]
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def messages(path: Path, **options: Any) -> list[str]:
    """What is wrong, after checking that `ok` says the same."""
    found = verify(path, **options)
    assert found.ok is not bool(found.problems)
    return [problem.message for problem in found.problems]


@pytest.mark.parametrize("num_shards", [1, 3])
def test_sound_folder_is_ok_and_everything_was_looked_at(tmp_path: Path, num_shards: int):
    weights = small_weights(np.float16)
    found = verify(write_folder(tmp_path, weights, num_shards=num_shards))
    assert found.ok, found.problems
    index = ["index"] if num_shards > 1 else []
    assert found.checked == ("headers", *index, "shapes (llama)", "tokenizer", "finite values")
    assert found.not_checked == ()
    assert found.num_tensors == len(weights)
    assert found.nbytes == sum(array.nbytes for array in weights.values())


def test_sound_files_of_other_formats_are_ok(write_llama: WriteLlama, tmp_path: Path):
    (tmp_path / "gguf").mkdir()
    path = write_llama(path=tmp_path / "gguf" / "x.gguf", quant="Q8_0").path
    for found in (verify(path), verify(path.parent)):
        assert (found.ok, found.checked) == (True, ("headers", "shapes (llama)", "finite values"))
        assert found.not_checked == ()
    weights = {name: torch.from_numpy(array) for name, array in small_weights().items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    found = verify(tmp_path)
    assert (found.ok, found.checked) == (True, ("headers", "shapes (llama)", "finite values"))
    assert found.not_checked == ("tokenizer: no tokenizer.json",)
    assert found.nbytes == sum(
        array.nbytes for array in small_weights().values()
    )  # tied weights are read once


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_values_that_are_not_finite_are_counted_by_tensor(tmp_path: Path, dtype: Any):
    weights = small_weights(dtype)
    weights[Q_PROJ][3, 5] = np.nan
    weights[Q_PROJ][3, 4] = -np.inf
    weights[Q_PROJ][7, 0] = np.inf
    weights["model.norm.weight"][2] = np.nan
    assert sorted(messages(write_folder(tmp_path, weights))) == [
        f"model.safetensors: tensor '{Q_PROJ}' has 1 NaN and 2 infinite of 1,024 values; the first is at "
        "[3, 4]",
        "model.safetensors: tensor 'model.norm.weight' has 1 NaN of 32 values; the first is at [2]",
    ]


FLOATS = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"]


@given(st.sampled_from(FLOATS), st.integers(0, 2**32), st.integers(1, 3000), st.booleans())
def test_counts_equal_numpys_for_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, seed: int, size: int, is_wide: bool
):
    # Random bytes have few extreme exponents in wide types; these have many.
    raw = np.random.default_rng(seed).choice(
        np.array([0, 1, 0x7F, 0x80, 0xF0, 0xF8, 0xFF], np.uint8), size * 8
    )
    values = raw[: size * ITEM_BYTES[dtype]].view(numpy_dtype(dtype))
    path = tmp_path_factory.mktemp("raw") / "raw"
    path.write_bytes(b"head" + values.tobytes())
    tensor = TensorSlice(str(path), "x", dtype, (size,), 4, values.nbytes)
    with Sources() as sources:
        found = count_values(tensor, sources, Meter(None, 1))
    nan, infinite = np.isnan(values), np.isinf(values)
    assert (found.num_nan, found.num_infinite) == (nan.sum(), infinite.sum())
    bad = np.flatnonzero(nan | infinite)
    assert found.first == (bad[0] if bad.size else -1)


def test_first_index_is_right_beyond_the_first_block(tmp_path: Path):
    values = np.zeros((3, BLOCK_BYTES // 4 + 7), np.float32)
    values[1, 5] = np.inf
    values[2, -1] = np.nan
    save_file({"x": values}, tmp_path / "x.safetensors")
    (message,) = messages(tmp_path / "x.safetensors")
    assert message.endswith("1 NaN and 1 infinite of 786,453 values; the first is at [1, 5]")


def test_complex_and_transposed_tensors_have_the_index_of_their_elements(tmp_path: Path):
    values = torch.zeros(4, 6)
    values[1, 2] = torch.nan
    pair = torch.view_as_complex(torch.tensor([[0, 0], [0, 0], [0, 0], [0, torch.inf], [0, 0]]))
    torch.save({"turned.weight": values.T, "pair": pair}, tmp_path / "x.pt")
    assert messages(tmp_path / "x.pt") == [
        "x.pt: tensor 'turned.weight' has 1 NaN of 24 values; the first is at [2, 1]",
        "x.pt: tensor 'pair' has 1 infinite of 5 values; the first is at [3]",
    ]


def test_a_scale_of_a_quantised_block_that_is_not_finite_is_found(tmp_path: Path):
    raw = np.zeros((4, 2 * 34), np.uint8)  # two blocks of Q8_0 in a row
    raw[2, 34:36] = np.array([np.inf], np.float16).view(np.uint8)
    raw[2, 36:] = 1
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "other")
    writer.add_tensor("x", raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = verify(tmp_path / "x.gguf")
    (problem,) = found.problems
    assert problem.message == "x.gguf: tensor 'x' has 32 infinite of 256 values; the first is at [2, 32]"
    assert found.not_checked[0].startswith("shapes: architecture 'other' cannot be converted")


def test_wrong_total_size_is_found(tmp_path: Path):
    weights = small_weights()
    total = sum(array.nbytes for array in weights.values())
    folder = write_folder(tmp_path, weights, num_shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    write_index(folder, index["weight_map"], total - 4)
    assert messages(folder) == [
        f"model.safetensors.index.json: total_size is {total - 4}, but the tensors take {total} bytes"
    ]


def test_an_index_that_is_wrong_does_not_hide_wrong_shapes(tmp_path: Path):
    weights = small_weights()
    weights[Q_PROJ] = np.zeros((3, 3), np.float32)
    folder = write_folder(tmp_path, weights, num_shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    write_index(folder, index["weight_map"], 1)
    assert [problem.check for problem in verify(folder).problems] == ["index", "shapes"]


def test_missing_shard_is_named_with_what_is_lost(tmp_path: Path):
    folder = write_folder(tmp_path, small_weights(), num_shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    (message,) = messages(folder)
    lost = [repr(name) for name in list(small_weights())[1::3]]
    assert message == (
        f"model-00002-of-00003.safetensors: is missing, and with it 10 tensors: {', '.join(lost[:3])}, ..."
    )


def test_tensors_in_other_files_than_the_index_says_are_found(tmp_path: Path):
    folder = write_folder(tmp_path, small_weights(), num_shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    moved = next(name for name, file in index.items() if file == first)
    dropped = next(name for name, file in index.items() if file == second)
    del index[dropped]
    write_index(folder, {**index, moved: second, "ghost": first}, 1)
    assert messages(folder) == [
        f"{second}: tensor {moved!r} is not in it, where the index places it",
        f"{second}: tensor {dropped!r} is in it, but the index does not name it",
        f"{first}: tensor 'ghost' is not in it, where the index places it",
        f"{first}: tensor {moved!r} is in it, but the index places it in {second}",
    ]


def test_leftover_weights_and_a_missing_index_are_found(tmp_path: Path):
    folder = write_folder(tmp_path, small_weights(), num_shards=2)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00001-of-00009.safetensors")
    assert messages(folder) == [
        "model-00001-of-00009.safetensors: holds weights that nothing refers to; a leftover, to be removed"
    ]
    (folder / "model-00001-of-00009.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink()
    assert messages(folder) == [
        "model.safetensors.index.json: is missing: 2 files of a checkpoint in parts, and no index"
    ]


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path):
    folder = write_folder(tmp_path / "m", small_weights(), num_shards=2)
    save_file(small_weights(), tmp_path / "outside.safetensors")
    write_index(folder, dict.fromkeys(small_weights(), "../outside.safetensors"), 1)
    (message,) = messages(folder)
    assert message.startswith(
        "model.safetensors.index.json: tensor 'model.embed_tokens.weight' is said to be in"
    )


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.gguf"])
@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_truncated_file_is_a_problem_and_not_an_exception(
    write_llama: WriteLlama, tmp_path: Path, name: str, cut: int
):
    if name == "model.gguf":
        path = write_llama().path
    else:
        path = tmp_path / name
        save_file(small_weights(), path)
    if name.endswith(".bin"):
        torch.save({"x.weight": torch.zeros(30)}, path)
    path.write_bytes(path.read_bytes()[:cut])
    (message,) = messages(path)
    assert message.startswith(f"{name}: ")


@pytest.mark.parametrize("form", ["as saved", "without checksums"])
def test_flipped_byte_of_a_torch_file_is_found_by_its_checksum(tmp_path: Path, form: str):
    ones = torch.ones(3, BLOCK_BYTES)
    whole = {"first": torch.zeros(7), "second": ones, "tied": ones, "third": torch.arange(5)}
    torch.serialization.set_crc32_options(form == "as saved")
    try:
        torch.save(whole, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert messages(tmp_path / "x.pt") == []
    content = bytearray((tmp_path / "x.pt").read_bytes())
    tensors = open_checkpoint(tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as file:
        before = [file.getinfo(f"x/data/{key}").CRC for key in (1, 2)]
    for name in ("second", "third"):
        start = content.index(bytes(tensors[name].buffer()))
        content[start + tensors[name].nbytes - 1] ^= 1
    (tmp_path / "x.pt").write_bytes(content)
    after = [zlib.crc32(open_checkpoint(tmp_path / "x.pt")[name].buffer()) for name in ("second", "third")]
    expected = [
        f"x.pt: tensor {name!r} has changed since it was saved: its CRC-32 is {new:08x}, and not {old:08x}; "
        "download or copy the file again"
        for name, new, old in zip(("second", "third"), after, before, strict=True)
    ]
    assert messages(tmp_path / "x.pt") == (expected if form == "as saved" else [])


def test_damaged_shard_does_not_hide_what_is_wrong_with_the_others(tmp_path: Path):
    weights = small_weights()
    weights[list(weights)[1]][:] = np.nan
    folder = write_folder(tmp_path, weights, num_shards=2, num_tokens=VOCAB + 1)
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    found = verify(folder)
    assert [(problem.check, problem.file) for problem in found.problems] == [
        ("headers", "model-00001-of-00002.safetensors"),
        ("values", "model-00002-of-00002.safetensors"),
    ]
    assert "shapes: files are damaged or missing" in found.not_checked


def test_an_index_of_many_files_takes_no_time(tmp_path: Path):
    places = {f"{number}.weight": f"{number}.safetensors" for number in range(20_000)}
    write_index(tmp_path, places, 1)
    started = time.process_time()
    assert len(messages(tmp_path)) == len(places)
    assert time.process_time() - started < 3


def write_sums(folder: Path) -> None:
    """As coreutils has it."""
    names = sorted(path.name for path in folder.iterdir())
    done = subprocess.run(["sha256sum", *names], cwd=folder, check=True, capture_output=True)
    (folder / "SHA256SUMS").write_bytes(done.stdout)


def test_what_is_not_there_raises(tmp_path: Path):
    with pytest.raises(CheckpointNotFoundError, match="no such file or folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(UnsupportedCheckpointError, match="no checkpoint that can be read"):
        verify(tmp_path)
    (tmp_path / "x.txt").write_text("some words")
    with pytest.raises(UnsupportedCheckpointError, match="not a file of safetensors"):
        verify(tmp_path / "x.txt")


@pytest.mark.parametrize("jobs", [1, 4])
def test_progress_ends_where_it_said_it_would(tmp_path: Path, jobs: int):
    folder = write_folder(tmp_path, small_weights(), num_shards=2)
    write_sums(folder)
    seen: list[tuple[int, int]] = []
    verify(folder, jobs=jobs, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == verify(folder).nbytes


def test_interrupt_ends_the_work(tmp_path: Path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(write_folder(tmp_path, small_weights()), progress=interrupt, jobs=2)


def test_result_is_json_and_text(tmp_path: Path):
    weights = small_weights()
    weights["model.norm.weight"][0] = np.nan
    found = verify(write_folder(tmp_path, weights))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Verification) == found
    assert verification_lines(found) == [
        f"{tmp_path}: 1 problem",
        "  model.safetensors: tensor 'model.norm.weight' has 1 NaN of 32 values; the first is at [0]",
        "checked       headers, shapes (llama), tokenizer, finite values",
    ]
    weights["model.norm.weight"][0] = 1
    (write_folder(tmp_path, weights) / "tokenizer.json").unlink()
    lines = verification_lines(verify(tmp_path))
    assert lines[0].startswith(f"ok: {tmp_path}: 29 tensors, 98.2 kB in 0.")
    assert lines[1:] == [
        "checked       headers, shapes (llama), finite values",
        "not checked   tokenizer: no tokenizer.json",
    ]
