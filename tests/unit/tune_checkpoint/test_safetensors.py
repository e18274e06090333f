"""Reading and writing safetensors, held against the safetensors library."""

import json
import os
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from huggingface_hub.serialization._base import split_state_dict_into_shards_factory
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tune_checkpoint import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptFileError,
    OutputExistsError,
    SafetensorsWriter,
    TensorOut,
    UnsupportedCheckpointError,
    open_checkpoint,
    write_checkpoint,
)
from tune_checkpoint.dtypes import ITEM_BYTES, numpy_dtype
from tune_checkpoint.foreign_json import MAX_ITEMS
from tune_checkpoint.shards import split_shards

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.half": np.arange(5, dtype=np.float16),
    "c.brain": np.arange(4).astype(ml_dtypes.bfloat16).reshape(2, 2),
    "d.index": np.arange(3, dtype=np.int64),
    "e.scalar": np.array(7, np.uint8),
    "f.empty": np.zeros((0, 4), np.float32),
}
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "uint8": "U8"}


def outs(arrays: dict[str, np.ndarray]) -> list[TensorOut]:
    return [
        TensorOut(name, NAMES[array.dtype.name], array.shape, array.tobytes) for name, array in arrays.items()
    ]


def write_raw(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(*offsets: int, dtype: str = "F32", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": list(offsets)}


def test_reads_what_the_library_writes(tmp_path: Path):
    save_file(ARRAYS, tmp_path / "x.safetensors", {"format": "pt"})
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        tensor = checkpoint[name]
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, NAMES[array.dtype.name], array.shape)
        assert tensor.nbytes == array.nbytes
        assert bytes(tensor.buffer()) == array.tobytes()
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_library_reads_what_is_written(tmp_path: Path):
    assert write_checkpoint(tmp_path / "m", outs(ARRAYS)) == ("model.safetensors",)
    written = load_file(tmp_path / "m" / "model.safetensors")
    assert written.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert written[name].dtype == array.dtype
        np.testing.assert_array_equal(written[name], array)


def test_every_dtype_has_a_numpy_type_of_its_size():
    for name, size in ITEM_BYTES.items():
        assert numpy_dtype(name).itemsize == size


def test_buffers_and_arrays_are_views_of_the_file(tmp_path: Path):
    save_file({"x": np.zeros(1000, np.float32)}, tmp_path / "x.safetensors")
    tensor = open_checkpoint(tmp_path / "x.safetensors")["x"]
    assert tensor.buffer().readonly
    assert np.shares_memory(tensor.numpy(), np.frombuffer(tensor.buffer(), np.float32))


def test_every_tensor_is_aligned_to_its_own_width(tmp_path: Path):
    write_checkpoint(tmp_path, outs({"odd": np.zeros(3, np.uint8), "wide": np.zeros(2, np.float32)}))
    header = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    offsets = {
        name: e["data_offsets"] for name, e in json.loads(header[8 : 8 + length]).items() if name[0] != "_"
    }
    assert length % 8 == 0
    assert offsets == {"wide": [0, 8], "odd": [8, 11]}


def test_chunks_of_a_tensor_are_joined(tmp_path: Path):
    array = np.arange(10, dtype=np.float32)
    chunks = lambda: (array[i : i + 3].data for i in range(0, 10, 3))  # noqa: E731
    write_checkpoint(tmp_path, [TensorOut("x", "F32", (10,), chunks)])
    np.testing.assert_array_equal(open_checkpoint(tmp_path)["x"].numpy(), array)


def test_shards_and_index_are_as_transformers_makes_them(tmp_path: Path):
    arrays = {f"layer.{i}": np.full((i + 1, 4), i, np.float32) for i in range(9)}
    arrays["layer.4"] = np.ones((20, 4), np.float32)  # larger than a file may be
    files = write_checkpoint(tmp_path, outs(arrays), max_shard_size=200)
    reference = split_state_dict_into_shards_factory(
        arrays,
        get_storage_size=lambda array: array.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=200,
    )
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == reference.tensor_to_filename
    assert index["metadata"] == {"total_size": reference.metadata["total_size"], "total_parameters": 240}
    assert set(files) == {*reference.filename_to_tensors, "model.safetensors.index.json"}
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(checkpoint[name].numpy(), array)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(1, 100))
def test_shards_keep_order_and_limit(sizes: list[int], limit: int):
    tensors = [TensorOut(str(i), "U8", (size,), bytes) for i, size in enumerate(sizes)]
    shards = split_shards(tensors, limit)
    assert sorted((t for shard in shards for t in shard), key=lambda t: int(t.name)) == tensors
    assert all(sum(t.nbytes for t in shard) <= limit or len(shard) == 1 for shard in shards)


def test_folder_with_weights_is_not_mixed_with_others(tmp_path: Path):
    write_checkpoint(tmp_path, outs(ARRAYS))
    with pytest.raises(OutputExistsError, match="has weights already"):
        write_checkpoint(tmp_path, outs(ARRAYS), max_shard_size=10)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [("b", b"1234", "'b' was written when 'a' was due"), ("a", b"123", "takes 4 bytes, but 3 were given")],
)
def test_writer_refuses_wrong_bytes_and_leaves_no_file(tmp_path: Path, name: str, data: bytes, message: str):
    with (
        pytest.raises(ValueError, match=message),
        SafetensorsWriter(tmp_path / "x.safetensors", [("a", "F32", (1,)), ("b", "F32", (1,))]) as writer,
    ):
        writer.write(name, data)
    assert not any(tmp_path.iterdir())


def test_writer_refuses_to_end_early(tmp_path: Path):
    with (
        pytest.raises(ValueError, match="'a' was announced and not written"),
        SafetensorsWriter(tmp_path / "x.safetensors", [("a", "F32", (1,))]),
    ):
        pass
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"[]", b"", "not a JSON object"),
        (b"{", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b'{"a.\\ud800": {}}', b"", r"is not valid JSON: a string in it has an escape such as .ud800, half"),
        (b'{"a.\xed\xa0\x80": {}}', b"", "is not valid JSON: 'utf-8' codec can't decode"),
        (b'{"x": {}, "x": {}}', b"", "'x' stands there twice"),
        ({"x": {"dtype": "F32"}}, b"", "'x': the header does not give"),
        ({"x": entry(0, 4, shape=[2])}, b"1234", r"'x': shape \[2\] of F32 takes 8 bytes.*span 4"),
        ({"x": entry(0, 8, shape=[2])}, b"1234", "'x' at byte .* takes 8 bytes, but the file has"),
        ({"x": entry(4, 0)}, b"1234", "'x'"),
        ({"x": entry(0, 4, shape=[-1, -1])}, b"1234", "are not counts"),
        ({"x": entry(0, 4, shape=[True])}, b"1234", "are not counts"),
        ({"x": entry(0, 4, shape=[1] * 33)}, b"1234", r"shape \[1, .* are not counts, .* may have 32"),
        ({"x": entry(0, 0, shape=[0] * 4_000_000)}, b"", r"shape \[0, [0, ]{196}\.\.\. or data_offsets"),
        ({"x": entry(0, 4, shape=[1 << 63])}, b"1234", "are not counts"),
        ({"x": entry(0, 10**4299 * 9)}, b"1234", "are not counts"),
        ({"x": entry(10**4299 * 9, 10**4299 * 9, shape=[0])}, b"", "are not counts"),
        (b"{" + b"".join(b'"%d": 0, ' % n for n in range(50_000)) + b'"49999": 0}', b"", "'49999' stands"),
        ({"x": entry(0, 4), "y": entry(0, 4)}, b"1234", "'y' at byte .* overlaps tensor 'x'"),
        (
            {"x": entry(0, 4), "y": entry(8, 12)},
            b"123412341234",
            "'y' at byte .* leaves a gap after tensor 'x'",
        ),
        ({"x": entry(0, 4)}, b"123456", "2 bytes after tensor 'x' belong to no tensor"),
    ],
)
def test_broken_headers_are_named(tmp_path: Path, header: Any, data: bytes, message: str):
    path = write_raw(tmp_path / "x.safetensors", header, data)
    started = time.process_time()
    with pytest.raises(CorruptFileError, match=message) as caught:
        open_checkpoint(path)
    assert time.process_time() - started < 2
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "shown"),
    [('"F31"', r'"F31"'), ("[" * 900 + "]" * 900, r"\[{200}\.\.\."), (f'"{"F" * 999}"', r'"F{199}\.\.\.')],
    ids=["short", "deep", "long"],
)
def test_unknown_dtype_is_named(tmp_path: Path, dtype: str, shown: str):
    header = f'{{"x": {{"dtype": {dtype}, "shape": [1], "data_offsets": [0, 4]}}}}'
    path = write_raw(tmp_path / "x.safetensors", header.encode(), b"1234")
    with pytest.raises(UnsupportedCheckpointError, match=f"'x': type {shown} is not one of"):
        open_checkpoint(path)


def test_announced_header_is_bounded(tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 16)
    with pytest.raises(CorruptFileError, match="a header of 18446744073709551615 bytes"):
        open_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("values", [b"[],", b"0,", b'{"":1},'], ids=["lists", "numbers", "objects"])
def test_header_and_index_have_a_bounded_number_of_values(tmp_path: Path, values: bytes):
    content = b'{"weight_map": [' + values * (MAX_ITEMS + 1) + b"0]}"
    path = write_raw(tmp_path / "x.safetensors", content)
    with pytest.raises(
        UnsupportedCheckpointError, match=f"the header at byte 8 has .* at most {MAX_ITEMS} are"
    ):
        open_checkpoint(path)
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(
        UnsupportedCheckpointError, match=f"this index has .* values; at most {MAX_ITEMS} are"
    ):
        open_checkpoint(tmp_path)


@given(data=st.data())
def test_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = tmp_path_factory.mktemp("fuzz")
    save_file(ARRAYS, folder / "x.safetensors")
    content = bytearray((folder / "x.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "x.safetensors").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        for tensor in open_checkpoint(folder / "x.safetensors").values():
            assert tensor.numpy().shape == tensor.shape
    except CheckpointError:
        pass


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b", 3])
def test_index_that_leaves_its_folder_is_refused(tmp_path: Path, name: Any):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(CorruptFileError, match="tensor 'x' is said to be in"):
        open_checkpoint(tmp_path)


def test_tensor_of_the_index_that_is_in_no_shard_is_named(tmp_path: Path):
    write_checkpoint(tmp_path, outs({"a": ARRAYS["a"], "b": ARRAYS["a"]}), max_shard_size=30)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["c"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(CorruptFileError, match=r"'c' is not in model-00001-of-00002.safetensors"):
        open_checkpoint(tmp_path)


def test_missing_shard_is_named(tmp_path: Path):
    write_checkpoint(tmp_path, outs({"a": ARRAYS["a"], "b": ARRAYS["a"]}), max_shard_size=30)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointNotFoundError,
        match=r"model-00002-of-00002.safetensors: cannot be read: No such.*index.json names it: download",
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("file_name", "message"),
    [
        (
            "lit_model.pth",
            r"found lit_model.pth\n  to make a Hugging Face folder of it: `tune-checkpoint convert ",
        ),
        (
            "model-00001-of-00002.safetensors",
            r"1 files like .*, but not model.safetensors.index.json.*; download",
        ),
        ("pytorch_model-00001-of-00002.bin", r"1 files like .*, but not pytorch_model.bin.index.json"),
        ("notes.txt", "no model.safetensors, .* or pytorch_model.bin.index.json; found notes.txt"),
    ],
)
def test_folder_without_weights_says_what_it_has(tmp_path: Path, file_name: str, message: str):
    (tmp_path / file_name).touch()
    with pytest.raises(CheckpointNotFoundError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "x.bin"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / name)
    for path in (tmp_path, tmp_path / name) if name.startswith("model") else (tmp_path / name,):
        with pytest.raises(CheckpointNotFoundError, match=rf"{name}: cannot be read: it is no regular file"):
            open_checkpoint(path)


def test_link_that_leads_nowhere_is_named(tmp_path: Path):
    (tmp_path / "model.safetensors").symlink_to("../../blobs/0123")
    with pytest.raises(
        CheckpointNotFoundError,
        match=r"model.safetensors: a link to ../../blobs/0123, which is not there; dow",
    ):
        open_checkpoint(tmp_path)


def test_missing_path_and_foreign_file_are_named(tmp_path: Path):
    with pytest.raises(CheckpointNotFoundError, match=r"absent.safetensors: cannot be read: No such file"):
        open_checkpoint(tmp_path / "absent.safetensors")
    (tmp_path / "notes.txt").write_bytes(b"hello")
    with pytest.raises(UnsupportedCheckpointError, match=r"not a file of safetensors, GGUF or torch.save"):
        open_checkpoint(tmp_path / "notes.txt")
