"""What `convert` writes, in how many threads, after which mishaps."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tune_checkpoint import (
    CorruptFileError,
    ReadFailedError,
    VerificationError,
    WriteFailedError,
    convert,
    open_checkpoint,
    plan_conversion,
)
from tune_checkpoint.checkpoint import read_tensors

LAYERS = 6
SHARD = 30_000
"""Bytes of weights in a file: two layers."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model of which four shards are made."""
    random = np.random.default_rng(3)
    tensors = {"model.embed_tokens.weight": random.standard_normal((50, 32), np.float32)}
    for layer in range(LAYERS):
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = random.standard_normal((100, 32), np.float32)
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = random.standard_normal(32, np.float32)
    path = tmp_path / "model"
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    config = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float32", "tie_word_embeddings": True}
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text("{}")
    (path / "weights.index.json").write_text("of another program")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def loaded(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for path in folder.glob("*.safetensors") for name, array in load_file(path).items()}


def test_output_is_the_same_in_any_number_of_threads_checked_or_not(folder: Path, tmp_path: Path):
    for jobs in (1, 3, 8):
        for verify in (True, False):
            out = tmp_path / f"{jobs}{verify}"
            result = convert(folder, out, max_shard_size=SHARD, jobs=jobs, verify=verify)
            assert result.verified is verify
    first, *others = (
        contents(tmp_path / f"{jobs}{verify}") for jobs in (1, 3, 8) for verify in (True, False)
    )
    assert all(other == first for other in others)
    assert len([name for name in first if name.endswith(".safetensors")]) == 4


def test_shards_have_the_weights_and_an_index_that_says_where(folder: Path, tmp_path: Path):
    result = convert(folder, tmp_path / "out", max_shard_size=SHARD)
    source, out = loaded(folder), loaded(tmp_path / "out")
    assert source.keys() == out.keys()
    assert all((out[name] == source[name]).all() for name in source)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in source.values()) == result.nbytes
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "out" / file)
    assert set(result.files) == contents(tmp_path / "out").keys()
    assert "weights.index.json" not in result.files


def test_dtype_rounds_as_numpy_does_and_config_says_so(folder: Path, tmp_path: Path):
    convert(folder, tmp_path / "out", dtype="fp16")
    source, out = loaded(folder), loaded(tmp_path / "out")
    assert all((out[name] == source[name].astype(np.float16)).all() for name in source)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float16"


def test_what_is_lacking_is_warned_of(folder: Path, tmp_path: Path):
    (folder / "tokenizer.json").unlink()
    (folder / "config.json").unlink()
    warnings = convert(folder, tmp_path / "out").warnings
    assert [warning.partition(":")[0] for warning in warnings] == ["config.json", "tokenizer.json"]


@pytest.mark.parametrize(("tied", "kept"), [(True, False), (False, True), (None, True)])
def test_a_tied_head_is_written_once(folder: Path, tmp_path: Path, tied: bool | None, kept: bool):
    weights = loaded(folder)
    save_file(
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}, folder / "model.safetensors"
    )
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "out")
    assert ("lm_head.weight" in open_checkpoint(tmp_path / "out")) is kept


def test_plan_of_a_folder_copies(folder: Path):
    plan = plan_conversion(folder)
    assert (plan.kind, plan.architecture, plan.target) == ("hf", "LlamaForCausalLM", "hf")
    assert all(not tensor.ops and len(tensor.sources) == 1 for tensor in plan.tensors)


KILLED = """
import os, signal, sys, time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tune_checkpoint import convert
def kill(done, total):
    if done > total // 4:
        while not list(Path(sys.argv[2]).parent.glob(".out.*.partial/.written.json")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)
convert(sys.argv[1], sys.argv[2], max_shard_size=30_000, jobs=1, progress=kill)
"""


def test_after_a_kill_the_same_call_goes_on_file_by_file(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(out)])
    assert killed.returncode == -signal.SIGKILL
    (partial,) = tmp_path.glob(".out.*.partial")
    assert not out.exists()
    noted = json.loads((partial / ".written.json").read_text())["sums"]
    finished = {name: (partial / name).stat().st_ino for name in noted}
    assert finished
    seen: list[int] = []
    convert(folder, out, max_shard_size=SHARD, progress=lambda done, total: seen.append(done))
    assert {name: (out / name).stat().st_ino for name in finished} == finished
    convert(folder, tmp_path / "unbroken", max_shard_size=SHARD)
    assert contents(out) == contents(tmp_path / "unbroken")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out", "unbroken"}


def test_a_link_that_stands_where_a_small_file_is_to_be_is_not_followed(folder: Path, tmp_path: Path):
    def plant(done: int, total: int) -> None:
        (partial,) = tmp_path.glob(".out.*.partial")
        if not (partial / "config.json").is_symlink():
            (partial / "config.json").symlink_to("../precious")

    (tmp_path / "precious").write_text("mine")
    convert(folder, tmp_path / "out", progress=plant)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "out" / "config.json").is_symlink()


def test_a_changed_source_is_not_gone_on_with(folder: Path, tmp_path: Path):
    subprocess.run([sys.executable, "-c", KILLED, str(folder), str(tmp_path / "out")])
    weights = loaded(folder)
    save_file({name: array + 1 for name, array in weights.items()}, folder / "model.safetensors")
    convert(folder, tmp_path / "out", max_shard_size=SHARD)
    out = loaded(tmp_path / "out")
    assert all((out[name] == weights[name] + 1).all() for name in weights)


def test_a_byte_that_does_not_read_as_it_was_written_is_found(folder: Path, tmp_path: Path):
    def damage(done: int, total: int) -> None:
        if done == total // 2:  # all is written, nothing is read again
            (file,) = (next(tmp_path.glob(".out.*.partial"))).glob("*.safetensors*")
            with file.open("r+b") as handle:
                handle.seek(-100, os.SEEK_END)
                byte = handle.read(1)
                handle.seek(-100, os.SEEK_END)
                handle.write(bytes([byte[0] ^ 1]))

    with pytest.raises(VerificationError, match=r"model.safetensors: tensor '.*' at byte \d+ does not read"):
        convert(folder, tmp_path / "out", progress=damage)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    convert(folder, tmp_path / "out", progress=damage, verify=False)


def test_a_source_that_shrinks_meanwhile_is_told(folder: Path, tmp_path: Path):
    def shrink(done: int, total: int) -> None:
        os.truncate(folder / "model.safetensors", 5000)

    with pytest.raises(
        CorruptFileError, match=r"model.safetensors: ends at byte 5000, before the end of tensor"
    ):
        convert(folder, tmp_path / "out", progress=shrink, jobs=1)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path):
    # 8 TB that take no room: a sparse file.
    size = 8 << 40
    entry = {"model.x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)
    with pytest.raises(WriteFailedError, match=r"out: the weights take 8,796,093.0 MB, .* MB are missing"):
        convert(path, tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"model.safetensors"}


def test_a_companion_that_cannot_be_read_is_named(folder: Path, tmp_path: Path):
    (folder / "merges.txt").symlink_to("/proc/self/mem")  # not even root can read it from its start
    with pytest.raises(ReadFailedError, match=r"merges.txt: cannot be read: Input/output error"):
        convert(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_model_beside_the_adapter_that_was_merged_into_it_is_a_model(folder: Path, tmp_path: Path):
    (folder / "adapter_config.json").write_text("{}")
    result = convert(folder, tmp_path / "out")
    assert result.kind == "hf"
    assert "adapter_config.json" not in result.files


LIMITED = """
import resource, sys
sys.dont_write_bytecode = True  # half of a file would be worse than none
from tune_checkpoint.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main(["convert", "model", "--output-dir", "out", "--max-shard-size", "30kB"]))
"""


def test_a_system_that_refuses_to_write_is_told_and_nothing_is_left(folder: Path, tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: out: could not be written: File too large (model-0000")
    assert done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"])
@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_a_wrong_checksum_of_a_torch_file_is_warned_of(tmp_path: Path, name: str, dtype: str | None):
    torch.save({name: torch.ones(500, 1000), "model.norm.weight": torch.ones(3)}, tmp_path / "x.bin")
    content = bytearray((tmp_path / "x.bin").read_bytes())
    (tensor,) = (tensor for tensor in read_tensors(tmp_path / "x.bin") if tensor.name == name)
    assert not any("CRC" in warning for warning in convert(tmp_path / "x.bin", tmp_path / "sound").warnings)
    content[tensor.offset + 1_000_000] ^= 1
    (tmp_path / "x.bin").write_bytes(content)
    damaged = [w for w in convert(tmp_path / "x.bin", tmp_path / "out", dtype=dtype).warnings if "CRC" in w]
    assert len(damaged) == 1
    assert damaged[0].startswith(
        f"{tmp_path}/x.bin: tensor {name!r} at byte {tensor.offset} has not the checksum"
    )


def test_a_wrong_checksum_in_a_file_whose_name_is_no_text_is_warned_of(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"odd\xff.bin")
    torch.save({"model.norm.weight": torch.ones(3)}, path)
    content = bytearray(path.read_bytes())
    content[read_tensors(path)[0].offset] ^= 1
    path.write_bytes(content)
    (damaged,) = [warning for warning in convert(path, tmp_path / "out").warnings if "CRC" in warning]
    assert damaged.startswith(f"{path}: tensor 'model.norm.weight' at byte")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_meanwhile_is_told_with_the_place_and_nothing_is_left(
    folder: Path, small_disk: Path
):
    def fill(done: int, total: int) -> None:
        with suppress(OSError):
            (small_disk / "others").write_bytes(bytes(1 << 20))

    told = r"No space left on device \(model-0000\d-of-00004.safetensors at byte \d+\); make room, or choose"
    with pytest.raises(WriteFailedError, match=rf"out: could not be written: {told}"):
        convert(folder, small_disk / "out", max_shard_size=SHARD, jobs=1, progress=fill)
    assert {path.name for path in small_disk.iterdir()} == {"others"}
