"""What `convert` and `atomic_folder` leave on the disk, and what they refuse."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tune_checkpoint import (
    CheckpointNotFoundError,
    OutputExistsError,
    UnsupportedCheckpointError,
    WriteFailedError,
    atomic_folder,
    convert,
    open_checkpoint,
    plan_conversion,
)

WriteLlama = Callable[..., Any]


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def filled(folder: Path) -> Path:
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    return folder


def test_failure_midway_leaves_nothing(write_llama: WriteLlama, tmp_path: Path):
    def fail(done: int, total: int) -> None:
        assert (tmp_path / ".out.partial").is_dir()
        if done > total // 2:
            raise KeyboardInterrupt

    file = write_llama()
    with pytest.raises(KeyboardInterrupt):
        convert(file.path, tmp_path / "out", progress=fail)
    assert entries(tmp_path) == {"model.gguf"}


def test_failure_midway_keeps_the_folder_that_was_to_be_replaced(write_llama: WriteLlama, tmp_path: Path):
    def fail(done: int, total: int) -> None:
        raise RuntimeError("stop")

    file = write_llama()
    filled(tmp_path / "out")
    with pytest.raises(RuntimeError, match="stop"):
        convert(file.path, tmp_path / "out", force=True, progress=fail)
    assert entries(tmp_path) == {"model.gguf", "out"}
    assert entries(tmp_path / "out") == {"old.txt"}


def test_non_empty_folder_is_refused_before_the_source_is_read(tmp_path: Path):
    (tmp_path / "broken.gguf").write_bytes(b"")
    filled(tmp_path / "out")
    with pytest.raises(OutputExistsError, match=r"out: the output folder is not empty.*--force"):
        convert(tmp_path / "broken.gguf", tmp_path / "out")
    assert entries(tmp_path / "out") == {"old.txt"}


def test_force_replaces_the_folder(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    filled(tmp_path / "out")
    convert(file.path, str(tmp_path / "out"), force=True)
    assert entries(tmp_path) == {"model.gguf", "out"}
    assert entries(tmp_path / "out") == {"model.safetensors", "config.json", "generation_config.json"}


def test_empty_folder_is_filled_and_parents_are_made(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    (tmp_path / "empty").mkdir()
    convert(file.path, tmp_path / "empty")
    convert(file.path, tmp_path / "a" / "b")
    assert entries(tmp_path / "empty") == entries(tmp_path / "a" / "b")


def test_file_in_the_place_of_the_folder_is_refused(write_llama: WriteLlama, tmp_path: Path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(OutputExistsError, match="a file stands there"):
        convert(write_llama().path, tmp_path / "out", force=True)
    assert (tmp_path / "out").read_text() == "precious"


def test_folder_that_holds_the_source_is_never_replaced(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    with pytest.raises(OutputExistsError, match="holds the source"):
        convert(file.path, tmp_path, force=True)
    assert file.path.exists()


def test_source_is_not_touched(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    digest, modified = hashlib.sha256(file.path.read_bytes()).digest(), file.path.stat().st_mtime_ns
    convert(file.path, tmp_path / "out")
    assert hashlib.sha256(file.path.read_bytes()).digest() == digest
    assert file.path.stat().st_mtime_ns == modified


def test_output_is_the_same_from_run_to_run(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama(quant="Q4_0")
    for name in ("a", "b"):
        convert(file.path, tmp_path / name)
    assert all(
        (tmp_path / "b" / path.name).read_bytes() == path.read_bytes() for path in (tmp_path / "a").iterdir()
    )


def test_leftovers_of_a_killed_process_are_cleared(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    filled(tmp_path / ".out.partial")
    convert(file.path, tmp_path / "out")
    assert entries(tmp_path) == {"model.gguf", "out"}


def test_folder_moved_aside_by_a_killed_process_comes_back(tmp_path: Path):
    filled(tmp_path / ".out.replaced")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out", force=True):
        raise RuntimeError
    assert entries(tmp_path) == {"out"}
    assert entries(tmp_path / "out") == {"old.txt"}


def test_place_that_refuses_is_a_write_failure(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    # These fail for root as well, as a read-only folder does not.
    with pytest.raises(WriteFailedError, match=r"could not be written: File exists .*model.gguf"):
        convert(file.path, file.path / "out")
    with pytest.raises(WriteFailedError, match="could not be written: File name too long"):
        convert(file.path, tmp_path / ("x" * 300))
    assert entries(tmp_path) == {"model.gguf"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_full_disk_leaves_nothing(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()

    def fill_the_disk(done: int, total: int) -> None:
        Path("/dev/full").write_bytes(b"x")

    with pytest.raises(WriteFailedError, match="No space left on device"):
        convert(file.path, tmp_path / "out", progress=fill_the_disk)
    assert entries(tmp_path) == {"model.gguf"}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("model.gguf", "a folder with model.gguf; give the path of the .gguf file itself"),
        ("model.safetensors", "which is what a conversion writes; a GGUF file of the Llama family"),
        ("pytorch_model.bin", "a folder with pytorch_model.bin; a GGUF file of the Llama family can be"),
    ],
)
def test_folders_are_refused_by_what_is_in_them(tmp_path: Path, found: str, message: str):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / found).touch()
    with pytest.raises(UnsupportedCheckpointError, match=message):
        convert(tmp_path / "src", tmp_path / "out")


def test_other_sources_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointNotFoundError, match=r"absent.gguf: no such file"):
        convert(tmp_path / "absent.gguf", tmp_path / "out")
    (tmp_path / "x.pth").write_bytes(b"PK")
    with pytest.raises(UnsupportedCheckpointError, match=r"x.pth: not a GGUF file; a GGUF file of the Llama"):
        convert(tmp_path / "x.pth", tmp_path / "out")
    with pytest.raises(ValueError, match="dtype 'int8': one of fp32, fp16, bf16"):
        plan_conversion(tmp_path / "x.pth", dtype="int8")


def test_converted_folder_opens(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    convert(file.path, tmp_path / "out")
    assert set(open_checkpoint(tmp_path / "out")) == set(file.tensors)
