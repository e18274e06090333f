"""`tune convert-ckpt`, `tune inspect` and `tune diff`: what they write, print and end with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from small_llama import LAYERS, small_weights, write_folder
from tune_checkpoint.safetensors_writer import safetensors_header
from tune_cli.output import warn

WEIGHTS = small_weights()


@pytest.fixture
def model() -> Path:
    folder = write_folder(Path("model"), WEIGHTS)
    (folder / "tokenizer.json").unlink()  # it has no merges, which a GGUF file needs
    return folder


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ([], "model-hf"),
        (["--to", "meta"], "model-meta"),
        (["--to", "gguf", "--quant", "F16"], "model-gguf-f16"),
        (["--output-dir", "out/here"], "out/here"),
    ],
)
def test_a_conversion_says_what_it_wrote_and_what_comes_next(tune_here, model, options, folder):
    said = tune_here("convert-ckpt", model, *options)
    assert said.code == 0, said.err
    assert said.out.startswith(f"wrote {folder}: ")
    assert ", verified\n" in said.out.splitlines(keepends=True)[0]
    assert Path(folder).is_dir()
    next_command = said.out.splitlines()[said.out.splitlines().index("next:") + 1]
    assert folder in next_command


@pytest.mark.parametrize(
    ("gone", "command"),
    [
        (None, "tune run generate model="),
        ("config.json", "tune inspect "),
        ("tokenizer.json", "tune inspect "),
    ],
)
def test_a_model_is_to_be_run_if_it_has_what_that_takes(tune_here, gone, command):
    folder = write_folder(Path("model"), WEIGHTS)
    if gone is not None:
        (folder / gone).unlink()
    said = tune_here("convert-ckpt", folder)
    lines = said.out.splitlines()
    assert lines[lines.index("next:") + 1].startswith(f"  {command}model-hf")


def test_a_conversion_can_be_read_by_programs(tune_here, model):
    said = tune_here("convert-ckpt", model, "--json", "--no-verify", "-j", "2", "--max-shard-size", "10kB")
    result = json.loads(said.out)
    assert (result["output_dir"], result["verified"], result["num_tensors"]) == (
        "model-hf",
        False,
        len(WEIGHTS),
    )
    assert all((Path("model-hf") / name).is_file() for name in result["files"])
    assert "model.safetensors.index.json" in result["files"]


def test_what_a_terminal_would_obey_is_spelled_out(tune_here):
    evil = "\x1b]0;evil\x07\x9b2J"
    Path(evil).mkdir()
    said = tune_here("convert-ckpt", ".", "--output-dir", "../out")
    assert said.err.startswith(r"error: .: ")
    assert r"\x1b]0;evil\x07\x9b2J" in said.err
    assert not any(sign in said.err for sign in "\x1b\x07\x9b")


def test_warnings_of_a_conversion_are_spelled_out_too(capsys):
    warn(["tensor \x1b[31m is left out\n  and \x9b"])
    assert capsys.readouterr().err == "warning: tensor \\x1b[31m is left out\n  and \\x9b\n"


def test_a_dry_run_writes_nothing(tune_here, model):
    before = set(Path().rglob("*"))
    text = tune_here("convert-ckpt", model, "--dry-run", "--dtype", "bf16")
    plan = json.loads(tune_here("convert-ckpt", model, "--dry-run", "--to", "gguf", "--json").out)
    assert f"model.layers.{{0..{LAYERS - 1}}}.mlp.up_proj.weight" in text.out
    assert (plan["target"], plan["output_dir"]) == ("gguf", "model-gguf")
    refused = tune_here("convert-ckpt", model, "--dry-run", "--output-dir", model)
    assert (refused.code, "holds the source model" in refused.err) == (2, True)
    assert "token_embd.weight" in plan["tensors"]
    assert set(Path().rglob("*")) == before


def test_a_dry_run_refuses_to_replace_weights_that_links_lead_to(tune_here, model):
    Path("tuned").mkdir()
    for file in ("config.json", "model.safetensors"):
        Path("tuned", file).symlink_to(Path("..", model, file))
    refused = tune_here("convert-ckpt", "tuned", "--dry-run", "--output-dir", model, "--force")
    assert (refused.code, "holds the weights that tuned/model.safetensors leads to" in refused.err) == (
        2,
        True,
    )


def test_an_existing_folder_is_replaced_only_by_force(tune_here, model):
    assert tune_here("convert-ckpt", model).code == 0
    said = tune_here("convert-ckpt", model)
    assert said.code == 2
    assert said.err.startswith(
        "error: model-hf: the output folder is not empty; choose another, or replace it"
    )
    assert tune_here("convert-ckpt", model, "--force").code == 0


def test_inspecting_says_kind_size_and_tensors(tune_here, model):
    said = tune_here("inspect", model)
    assert said.code == 0
    assert "LlamaForCausalLM" in said.out
    found = json.loads(tune_here("inspect", model, "--json").out)
    assert found["kind"] == "hf"
    assert found["num_parameters"] == sum(array.size for array in WEIGHTS.values())
    assert {tensor["name"] for tensor in found["tensors"]} == WEIGHTS.keys()
    assert len(tune_here("inspect", model, "--tensors").out) > len(said.out)


def test_differences_are_told_and_counted_in_the_exit_status(tune_here, model):
    write_folder(Path("other"), WEIGHTS | {"model.norm.weight": WEIGHTS["model.norm.weight"] + 1})
    same = tune_here("diff", model, model)
    assert (same.code, same.out.count("\n")) == (0, 1)
    other = tune_here("diff", model, "other")
    assert other.code == 1
    assert "model.norm.weight" in other.out
    assert json.loads(tune_here("diff", model, "other", "--json").out)["identical"] is False
    assert tune_here("diff", model, "nowhere").code == 2


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_stops_a_conversion_is_told_that_the_same_command_goes_on(tmp_path, signum, status):
    # 4 GB that take no room: a sparse file. It takes longer to be converted than to be interrupted.
    header = safetensors_header([("model.layers.0.mlp.up_proj.weight", "F32", (1000, 1_000_000))])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(header)
    os.truncate(tmp_path / "model" / "model.safetensors", len(header) + 4_000_000_000)
    run = "import sys; from tune_cli.entry import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "convert-ckpt", "model", "--dtype", "bf16"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".model-hf.*.partial/*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    told = "error: interrupted; the same command goes on with the files that are finished\n"
    assert (process.returncode, err) == (status, told)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}  # none was
