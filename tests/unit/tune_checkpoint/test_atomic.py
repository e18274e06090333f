"""What `convert` and `atomic_folder` leave on the disk, and what they refuse."""

import fcntl
import hashlib
import os
import shutil
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
    (folder / "config.json").write_text("old")
    return folder


def test_failure_midway_leaves_nothing(write_llama: WriteLlama, tmp_path: Path):
    def fail(done: int, total: int) -> None:
        assert len(list(tmp_path.glob(".out.*.partial"))) == 1
        if done > total // 4:  # before the first file is whole
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
    assert entries(tmp_path / "out") == {"config.json"}


def test_non_empty_folder_is_refused_before_the_source_is_read(tmp_path: Path):
    (tmp_path / "broken.gguf").write_bytes(b"")
    filled(tmp_path / "out")
    with pytest.raises(OutputExistsError, match=r"out: the output folder is not empty.*--force .*force=True"):
        convert(tmp_path / "broken.gguf", tmp_path / "out")
    assert entries(tmp_path / "out") == {"config.json"}


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


@pytest.mark.parametrize("below", ["out", "a/b"])
def test_file_above_the_folder_is_named(write_llama: WriteLlama, tmp_path: Path, below: str):
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(OutputExistsError, match=rf"{below}: no folder can be made there: .*notes is a file"):
        convert(write_llama().path, tmp_path / "notes" / below)
    assert (tmp_path / "notes").read_text() == "precious"


@pytest.mark.parametrize("stray", ["thesis.txt", "notes.md", "src/main.py", "other.gguf", "model"])
def test_force_spares_what_does_not_belong_to_a_model(write_llama: WriteLlama, tmp_path: Path, stray: str):
    file = write_llama()
    path = filled(tmp_path / "out") / stray
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match=rf"out: {stray.partition('/')[0]} would be lost"):
        convert(file.path, tmp_path / "out", force=True)
    assert path.read_text() == "precious"
    assert entries(tmp_path) == {"model.gguf", "out"}


@pytest.mark.parametrize("to", ["meta", "gguf"])
def test_force_replaces_what_the_same_conversion_wrote_and_nothing_else(
    write_llama: WriteLlama, tmp_path: Path, to: Any
):
    file = write_llama()
    for _ in range(2):
        convert(file.path, tmp_path / "out", to=to, force=True)
    assert entries(tmp_path) == {"model.gguf", "out"}
    with pytest.raises(OutputExistsError, match=r"out: .* would be lost; only a model's folder is replaced"):
        convert(file.path, tmp_path / "out", force=True)
    (tmp_path / "out" / "notes.txt").write_text("precious")
    with pytest.raises(OutputExistsError, match=r"out: notes.txt would be lost"):
        convert(file.path, tmp_path / "out", to=to, force=True)


def test_force_replaces_a_models_folder_that_says_where_it_came_from(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    convert(file.path, tmp_path / "out")
    (tmp_path / "out" / ".tune-download.json").write_text("{}")
    convert(file.path, tmp_path / "out", force=True)
    assert ".tune-download.json" not in entries(tmp_path / "out")


def test_force_spares_a_folder_that_is_no_models(write_llama: WriteLlama, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "records.json").write_text("precious")
    with pytest.raises(OutputExistsError, match=r"records\.json would be lost"):
        convert(write_llama().path, tmp_path / "out", force=True)
    assert entries(tmp_path / "out") == {"records.json"}


@pytest.mark.parametrize(("output", "held"), [(".", "is"), ("..", "holds")])
def test_current_folder_and_those_above_it_are_never_replaced(
    write_llama: WriteLlama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, held: str
):
    file = write_llama()
    here = filled(tmp_path / "above") / "here"
    monkeypatch.chdir(filled(here))
    with pytest.raises(OutputExistsError, match=f"{held} the current folder"):
        convert(file.path, output, force=True)
    with pytest.raises(OutputExistsError, match="the current folder"), atomic_folder(output, force=True):
        pass
    assert entries(here) == {"config.json"}


def test_home_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(filled(tmp_path / "home")))
    with (
        pytest.raises(OutputExistsError, match="is the home folder"),
        atomic_folder(tmp_path / "home", force=True),
    ):
        pass
    assert entries(tmp_path / "home") == {"config.json"}


def test_of_two_that_write_one_folder_the_first_wins_and_the_second_says_so(tmp_path: Path):
    with pytest.raises(OutputExistsError, match="out: the output folder is not empty"):  # noqa: SIM117
        with atomic_folder(tmp_path / "out") as slow:
            with atomic_folder(tmp_path / "out") as fast:
                (slow / "config.json").write_text("slow")
                (fast / "config.json").write_text("fast")
    assert (tmp_path / "out" / "config.json").read_text() == "fast"
    assert entries(tmp_path) == {"out"}


def test_folder_that_somebody_writes_is_left_alone(tmp_path: Path):
    theirs = filled(tmp_path / ".out.0123abcd.partial")
    descriptor = os.open(theirs, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with atomic_folder(tmp_path / "out"):
        pass
    with (
        pytest.raises(OutputExistsError, match="out: is being written by another process"),
        atomic_folder(tmp_path / "out", force=True, key="0123abcd"),
    ):
        pass
    os.close(descriptor)
    assert entries(tmp_path) == {theirs.name, "out"}
    assert entries(theirs) == {"config.json"}


def test_a_link_in_the_place_of_the_folder_to_fill_is_not_followed(tmp_path: Path):
    theirs = filled(tmp_path / "theirs")
    (tmp_path / ".out.aa.partial").symlink_to(theirs)
    with pytest.raises(OSError, match="Not a directory"), atomic_folder(tmp_path / "out", key="aa"):
        pass
    assert entries(theirs) == {"config.json"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_what_another_user_has_left_is_not_gone_on_with(tmp_path: Path):
    (tmp_path / ".out.aa.partial").mkdir()
    os.chown(tmp_path / ".out.aa.partial", 12345, -1)
    with (
        pytest.raises(OutputExistsError, match=r"out: cannot be made: .* is another user's; remove it"),
        atomic_folder(tmp_path / "out", key="aa"),
    ):
        pass


def test_what_was_interrupted_under_a_key_is_gone_on_with_under_the_same_and_cleared_under_another(
    tmp_path: Path,
):
    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out", key="aa") as folder:
            (folder / "first").touch()
            raise KeyboardInterrupt

    interrupted()
    with atomic_folder(tmp_path / "out", key="aa") as folder:
        assert entries(folder) == {"first"}
    assert entries(tmp_path) == {"out"}
    assert entries(tmp_path / "out") == {"first"}
    shutil.rmtree(tmp_path / "out")
    interrupted()
    with atomic_folder(tmp_path / "out", key="bb") as folder:
        assert entries(folder) == set()
    assert entries(tmp_path) == {"out"}


def test_interrupt_after_the_folder_has_its_name_is_an_interrupt_and_the_folder_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(descriptor: int) -> None:
        if (tmp_path / "out" / "config.json").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out", key="aa") as folder:
        (folder / "config.json").touch()
    assert entries(tmp_path) == {"out"}
    assert entries(tmp_path / "out") == {"config.json"}


def test_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path: Path):
    filled(tmp_path / "out")
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "out", force=True) as folder:
        (folder / "config.json").write_text("new")
        shutil.rmtree(folder)
    assert (tmp_path / "out" / "config.json").read_text() == "old"
    assert entries(tmp_path) == {"out"}


def test_folder_that_holds_the_source_is_never_replaced(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    with pytest.raises(OutputExistsError, match="holds the source"):
        convert(file.path, tmp_path, force=True)
    assert file.path.exists()


def test_weights_that_links_lead_to_are_never_replaced(write_llama: WriteLlama, tmp_path: Path):
    convert(write_llama().path, tmp_path / "base")
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "config.json").write_text("{}")
    (tmp_path / "tuned" / "model.safetensors").symlink_to("../base/model.safetensors")
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    with pytest.raises(
        OutputExistsError, match=r"base: holds the weights that .*tuned/model.safetensors leads"
    ):
        convert(tmp_path / "tuned", tmp_path / "base", force=True, dtype="bf16")
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before


def test_nothing_is_written_into_the_source(write_llama: WriteLlama, tmp_path: Path):
    convert(write_llama().path, tmp_path / "model")
    before = entries(tmp_path / "model")
    with pytest.raises(OutputExistsError, match=r"new: lies in the source .*model; choose a folder outside"):
        convert(tmp_path / "model", tmp_path / "model" / "deep" / "new")
    assert entries(tmp_path / "model") == before


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
    filled(tmp_path / ".out.0123abcd.partial")
    convert(file.path, tmp_path / "out")
    assert entries(tmp_path) == {"model.gguf", "out"}


def test_folder_moved_aside_by_a_killed_process_comes_back(tmp_path: Path):
    filled(tmp_path / ".out.0123abcd.replaced")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out", force=True):
        raise RuntimeError
    assert entries(tmp_path) == {"out"}
    assert entries(tmp_path / "out") == {"config.json"}


def test_place_that_refuses_is_a_write_failure(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    # This fails for root as well, as a read-only folder does not.
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


def test_folders_are_refused_by_what_is_in_them(tmp_path: Path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "notes.txt").touch()
    with pytest.raises(
        UnsupportedCheckpointError, match=r"src: no checkpoint that can be read; found notes.txt"
    ):
        convert(tmp_path / "src", tmp_path / "out")
    (tmp_path / "src" / "adapter_config.json").write_text('{"base_model_name_or_path": "a; b"}')
    with pytest.raises(
        UnsupportedCheckpointError, match=r"\n  tune-checkpoint merge 'a; b' \S*src --output-dir DIR"
    ):
        convert(tmp_path / "src", tmp_path / "out")


def test_other_sources_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointNotFoundError, match=r"absent.gguf: no such file"):
        convert(tmp_path / "absent.gguf", tmp_path / "out")
    (tmp_path / "x.png").write_bytes(b"PNG")
    with pytest.raises(
        UnsupportedCheckpointError, match=r"x.png: not a file of safetensors, GGUF or torch.save"
    ):
        convert(tmp_path / "x.png", tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"dtype": "int8"}, "dtype 'int8': one of fp32, fp16, bf16"),
        ({"kind": "onnx"}, "kind 'onnx': one of hf, meta, "),
        ({"to": "bin"}, "to='bin': one of hf, meta, gguf"),
        ({"quant": "q8_0"}, "quant='q8_0': only a GGUF file is quantised"),
    ],
)
def test_arguments_that_cannot_be_are_told(tmp_path: Path, given: dict[str, Any], told: str):
    with pytest.raises(ValueError, match=told):
        plan_conversion(tmp_path, **given)


def test_converted_folder_opens(write_llama: WriteLlama, tmp_path: Path):
    file = write_llama()
    convert(file.path, tmp_path / "out")
    assert set(open_checkpoint(tmp_path / "out")) == set(file.tensors)
