"""GGUF models in several parts, written by the gguf package, read as one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tune_checkpoint import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptFileError,
    UnsupportedCheckpointError,
    convert,
    open_checkpoint,
    plan_conversion,
)
from tune_checkpoint.gguf.rope import llama3_factors
from tune_checkpoint.kinds import detect_kind

WriteLlama = Callable[..., Any]

SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def part(folder: Path, number: int, count: int = 3) -> Path:
    return folder / f"model-{number:05d}-of-{count:05d}.gguf"


def write_part(
    path: Path, number: int | None, count: int, total: int | None, tensors: dict[str, np.ndarray]
) -> None:
    """A part as gguf-split writes it, of whatever it says."""
    writer = gguf.GGUFWriter(path, "llama")
    if number is not None:
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
    if total is not None:
        writer.add_int32("split.tensors.count", total)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def split(write_llama: WriteLlama, tmp_path: Path) -> Any:
    """A model in three parts, in a folder of its own."""
    (tmp_path / "parts").mkdir()
    factors = np.array(llama3_factors(SCALING, 16, 50000.0), np.float32)
    file = write_llama(
        path=tmp_path / "parts" / "model.gguf",
        quant="Q8_0",
        tied=False,
        extra={"rope_freqs.weight": factors},
        split_max_tensors=8,
    )
    assert sorted(path.name for path in file.path.parent.iterdir()) == [
        part(file.path.parent, number).name for number in (1, 2, 3)
    ]
    return file


def test_parts_convert_as_the_whole_does(split: Any, write_llama: WriteLlama, tmp_path: Path):
    factors = split.extra
    whole = write_llama(quant="Q8_0", tied=False, extra=factors)
    convert(whole.path, tmp_path / "whole")
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    folder = split.path.parent
    for number, src in enumerate([folder, part(folder, 1), part(folder, 2), part(folder, 3)]):
        convert(src, tmp_path / f"out{number}")
        written = load_file(tmp_path / f"out{number}" / "model.safetensors")
        assert written.keys() == expected.keys()
        for name in written:
            np.testing.assert_array_equal(written[name], expected[name], err_msg=name)
        assert (tmp_path / f"out{number}" / "config.json").read_bytes() == (
            tmp_path / "whole" / "config.json"
        ).read_bytes()


def test_parts_open_as_one_checkpoint(split: Any):
    folder = split.path.parent
    assert {detect_kind(path) for path in (folder, part(folder, 1), part(folder, 3))} == {"gguf"}
    reference = {
        tensor.name: tensor.data.tobytes()
        for number in (1, 2, 3)
        for tensor in gguf.GGUFReader(part(folder, number)).tensors
    }
    for path in (folder, part(folder, 2)):
        checkpoint = open_checkpoint(path)
        assert (checkpoint.kind, set(checkpoint)) == ("gguf", set(reference))
        assert {name: bytes(tensor.buffer()) for name, tensor in checkpoint.items()} == reference


def test_folder_with_one_file_opens_as_the_file(write_llama: WriteLlama, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    file = write_llama(path=tmp_path / "folder" / "any name.gguf")
    (tmp_path / "folder" / "README.md").touch()
    assert list(open_checkpoint(tmp_path / "folder")) == list(open_checkpoint(file.path))
    assert plan_conversion(tmp_path / "folder").tensors == plan_conversion(file.path).tensors


def test_file_that_is_called_the_only_part_is_whole(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama(path=part(tmp_path, 1, count=1))
    assert len(plan_conversion(file.path).tensors) == len(file.tensors)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_missing_part_is_named(split: Any, lost: int):
    folder = split.path.parent
    part(folder, lost).unlink()
    for path in (folder, part(folder, 1 if lost > 1 else 2)):
        with pytest.raises(
            CheckpointNotFoundError, match=rf"model-0000{lost}-of-00003.gguf: no such file.* 3 parts; put"
        ):
            plan_conversion(path, kind="gguf")


def test_parts_of_a_huge_announced_number_are_not_looked_for_one_by_one(tmp_path: Path):
    write_part(part(tmp_path, 7, count=99999), 6, 9, None, {})
    with pytest.raises(CheckpointNotFoundError, match=r"00001-of-99999.gguf: no such.*99998 are missing"):
        open_checkpoint(part(tmp_path, 7, count=99999))


ONES = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ((0, 2, 2, {"b": ONES}), r"by its name part 2 of 2, .*split.no 0 .*split.count 2"),
        ((1, 3, 2, {"b": ONES}), r"by its name part 2 of 2, .*split.no 1 .*split.count 3"),
        ((None, 0, None, {"b": ONES}), r"by its name part 2 of 2, .*split.no None"),
        ((1, 2, 7, {"b": ONES}), r"have 2 tensors, but split.tensors.count is 7; .*one model"),
        ((1, 2, 2, {"a": ONES}), r"tensor 'a' is also in model-00001-of-00002.gguf"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(tmp_path: Path, second: Any, message: str):
    write_part(part(tmp_path, 1, count=2), 0, 2, 2, {"a": ONES})
    write_part(part(tmp_path, 2, count=2), *second)
    with pytest.raises(CorruptFileError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert str(part(tmp_path, 2, count=2)) in str(caught.value) or "split.tensors.count" in message


def test_folder_with_several_models_asks_which(split: Any, write_llama: WriteLlama):
    folder = split.path.parent
    write_llama(path=folder / "other.gguf")
    with pytest.raises(
        UnsupportedCheckpointError, match=r"2 GGUF models .*\(model-00001.*, other.gguf\); name the file"
    ):
        open_checkpoint(folder)
    assert len(open_checkpoint(part(folder, 1))) == len(split.tensors) + 1
    (folder / "other.gguf").unlink()
    shutil.copy(part(folder, 1), part(folder, 1, count=9))
    with pytest.raises(UnsupportedCheckpointError, match="2 GGUF models"):
        open_checkpoint(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(1, 3), place=st.integers(0, 700), byte=st.integers(0, 255))
def test_damaged_part_is_planned_or_refused_by_name(split: Any, number: int, place: int, byte: int):
    path = part(split.path.parent, number)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        plan_conversion(path)
    except CheckpointError as error:
        assert str(split.path.parent) in str(error)
    finally:
        path.write_bytes(whole)
