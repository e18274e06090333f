"""The command `tune-checkpoint`: what it prints, and how it ends."""

import argparse
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from small_llama import CONFIG, HIDDEN, small_weights, write_folder
from tune_checkpoint import cli, cli_words
from tune_checkpoint.dtypes import CLI_DTYPES
from tune_checkpoint.plan import KINDS, TARGETS

WriteLlama = Callable[..., Any]
COMMAND = [sys.executable, "-c", "import sys; from tune_checkpoint.cli import main; sys.exit(main())"]


class Ended:
    """A command line that has ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> Ended:
        code = cli.main([str(word) for word in words])
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return run


def in_a_process(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("words", [[], ["--help"], ["convert", "--help"], ["diff", "-h"], ["--version"]])
def test_help_is_instant(words: list[str]):
    report = "import atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    code = f"import sys; {report}; from tune_checkpoint.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0
    assert "tune-checkpoint" in done.stdout
    assert not set(done.stderr.split()) & {"msgspec", "numpy", "json", "gguf", "concurrent.futures"}


@pytest.mark.parametrize("command", ["convert", "merge", "inspect", "verify", "diff"])
def test_help_fits_80_columns_and_every_command_prints_json(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.setenv("COLUMNS", "80")
    page = run(command, "--help")
    assert page.code == 0
    assert max(map(len, page.out.splitlines())) <= 80
    assert page.out.isascii()
    assert "--json" in page.out


def test_choices_are_those_of_the_library():
    assert (KINDS, TARGETS, tuple(CLI_DTYPES)) == (cli_words.KINDS, cli_words.TARGETS, cli_words.DTYPES)


def test_convert_writes_a_folder_named_after_the_source(run: Run, write_llama: WriteLlama, tmp_path: Path):
    done = run("convert", write_llama(path=tmp_path / "small.Q8_0.gguf", quant="Q8_0").path)
    lines = done.out.splitlines()
    assert (done.code, lines[0].split(":")[0]) == (0, "wrote small.Q8_0-hf")
    assert lines[0].endswith(", verified")
    assert lines[-2:] == ["next:", "  tune-checkpoint inspect small.Q8_0-hf"]
    assert "warning: tokenizer.json: the file has no vocabulary" in done.err
    assert (tmp_path / "small.Q8_0-hf" / "model.safetensors").is_file()
    again = run("convert", tmp_path / "small.Q8_0.gguf")
    assert (again.code, again.out) == (2, "")
    assert again.err.startswith("error: small.Q8_0-hf: the output folder is not empty")
    forced = run("convert", tmp_path / "small.Q8_0.gguf", "-f", "--no-verify", "--dtype", "bf16", "-j", "2")
    assert forced.code == 0
    assert ", not verified" in forced.out
    weights = load_file(tmp_path / "small.Q8_0-hf" / "model.safetensors")
    assert {array.dtype for array in weights.values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_convert_splits_into_shards_and_prints_json(run: Run, tmp_path: Path):
    write_folder(tmp_path / "model", small_weights())
    done = run("convert", "model", "--output-dir", "out", "--max-shard-size", "40kB", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["num_parameters"] == sum(array.size for array in small_weights().values())
    assert done.json["files"][0] == "model-00001-of-00003.safetensors"
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()


def test_convert_makes_gguf_files_with_the_type_in_their_name(run: Run, tmp_path: Path):
    weights = {name: array.astype(np.float32) for name, array in small_weights().items()}
    write_folder(tmp_path / "model", weights, CONFIG | {"rms_norm_eps": 1e-5, "hidden_act": "silu"})
    (tmp_path / "model" / "tokenizer.json").unlink()
    done = run("convert", "model", "--to", "gguf", "--quant", "F16")
    assert done.code == 0, done.err
    assert done.out.startswith("wrote model-gguf-f16: ")
    (path,) = (tmp_path / "model-gguf-f16").glob("*.gguf")
    assert run("diff", path, "model", "--json").json["only_in_a"] == []


def test_dry_run_prints_the_plan_and_writes_nothing(run: Run, tmp_path: Path):
    write_folder(tmp_path / "model", small_weights())
    done = run("convert", "model", "--dtype", "fp16", "--dry-run")
    assert done.code == 0
    assert "  model.layers.{0..2}.mlp.up_proj.weight" in done.out
    assert sum(line.endswith("  Cast") for line in done.out.splitlines()) == 11
    data = run("convert", "model", "--dtype", "fp16", "--dry-run", "--json").json
    assert data["num_parameters"] == sum(array.size for array in small_weights().values())
    assert data["tensors"]["model.norm.weight"] == {
        "dtype": "F16",
        "shape": [HIDDEN],
        "sources": ["model.norm.weight"],
        "operations": ["Cast"],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_dry_run_refuses_to_replace_weights_that_links_lead_to(run: Run, tmp_path: Path):
    write_folder(tmp_path / "base", small_weights())
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tuned" / "model.safetensors").symlink_to("../base/model.safetensors")
    words = ("convert", "tuned", "--output-dir", "base", "--force")
    refused = run(*words, "--dry-run")
    assert refused.code == 2
    assert refused.err.startswith("error: base: holds the weights that tuned/model.safetensors leads to")
    assert run(*words).err == refused.err


def test_merge_adds_the_adapter(run: Run, tmp_path: Path):
    weights = small_weights()
    write_folder(tmp_path / "model", weights)
    (tmp_path / "lora").mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    name = "model.layers.0.self_attn.q_proj"
    a, b = np.ones((2, HIDDEN), np.float32), np.full((HIDDEN, 2), 0.5, np.float32)
    pair = {f"base_model.model.{name}.lora_{key}.weight": value for key, value in (("A", a), ("B", b))}
    save_file(pair, tmp_path / "lora" / "adapter_model.safetensors")
    done = run("merge", "model", "lora")
    assert done.code == 0, done.err
    assert done.out.startswith("wrote lora-merged: ")
    merged = load_file(tmp_path / "lora-merged" / "model.safetensors")
    np.testing.assert_allclose(merged[f"{name}.weight"], weights[f"{name}.weight"] + 2 * b @ a, rtol=1e-6)
    found = run("diff", "model", "lora-merged", "--json")
    assert (found.code, [tensor["name"] for tensor in found.json["tensors"]]) == (1, [f"{name}.weight"])


def test_inspect_prints_text_or_json(run: Run, tmp_path: Path):
    write_folder(tmp_path / "model", small_weights())
    done = run("inspect", "model")
    assert (done.code, done.err) == (0, "")
    assert "parameters    24.5K (24,544)" in done.out
    assert run("inspect", "model", "--json").json["kind"] == "hf"
    assert len(run("inspect", "model", "--tensors").out.splitlines()) > len(done.out.splitlines())


def test_verify_ends_with_1_if_something_is_wrong(run: Run, tmp_path: Path):
    weights = small_weights()
    write_folder(tmp_path / "model", weights)
    sound = run("verify", "model")
    assert (sound.code, sound.out[:11]) == (0, "ok: model: ")
    weights["model.norm.weight"][4] = np.nan
    write_folder(tmp_path / "model", weights)
    done = run("verify", "model", "-j", "2")
    assert done.code == 1
    assert (
        "model.safetensors: tensor 'model.norm.weight' has 1 NaN of 32 values; the first is at [4]"
        in done.out
    )
    assert run("verify", "model", "--json").json["ok"] is False


def test_diff_ends_as_diff_does(run: Run, tmp_path: Path):
    weights = small_weights()
    write_folder(tmp_path / "a", weights)
    write_folder(tmp_path / "b", weights, num_shards=2)
    same = run("diff", "a", "b")
    assert (same.code, same.out) == (0, "identical: 29 tensors, 24,544 elements\n")
    weights["model.norm.weight"][0] += 1
    write_folder(tmp_path / "c", weights)
    other = run("diff", "a", "c")
    assert other.code == 1
    assert other.out.splitlines()[-1] == "29 tensors in both, 1 of them different"
    trouble = run("diff", "a", "nowhere")
    assert (trouble.code, trouble.out) == (2, "")
    assert trouble.err == "error: nowhere: no such file or folder\n"
    assert run("diff", "a").code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect"], "the following arguments are required: PATH"),
        (["inspect", "x", "--tensor"], "unrecognized arguments: --tensor"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["convert", "x", "--to", "pt"], "invalid choice: 'pt'"),
        (["convert", "x", "--jobs", "0"], "'0' is no number from 1 to 32"),
        (["convert", "x", "--max-shard-size", "big"], "'big' is no size; write 5GB"),
        (["convert", "x", "--quant", "q8_0"], "--quant q8_0: only a GGUF file is quantised; add --to gguf"),
        (["convert", "x", "--to", "gguf", "--quant", "q9"], "--quant q9: no such type; one of f32, f16"),
        (["convert", "x"], "x: no such file or folder"),
        (["inspect", "x"], "x: no such file or folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_an_error_in_one_message(run: Run, words: list[str], message: str):
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert message in done.err
    assert "Traceback" not in done.err


def test_what_a_terminal_would_obey_is_spelled_out(run: Run, write_llama: WriteLlama, tmp_path: Path):
    evil = "\x1b]0;evil\x07\x9b2J\u202egpj\r"
    shown = "\\x1b]0;evil\\x07\\x9b2J\\u202egpj\\r"
    (tmp_path / evil).mkdir()
    found = run("inspect", ".")
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(f"error: .: no checkpoint that can be read; found {shown}\n  looked for ")
    warned = run("convert", write_llama(path=tmp_path / "x.gguf", extra={f"{evil}\n": np.zeros(4)}).path)
    assert shown in warned.err
    assert not any(sign in found.err + warned.err + warned.out for sign in "\x1b\x07\x9b\u202e\r")


@pytest.mark.parametrize("to", ["hf", "meta", "gguf"])
def test_names_of_files_that_are_no_text_are_spelled_out(run: Run, tmp_path: Path, to: str):
    odd = os.fsdecode(b"odd\xff")
    write_folder(tmp_path / odd, small_weights())
    (tmp_path / odd / "tokenizer.json").rename(tmp_path / odd / f"{odd}.txt")
    for words in (("--dry-run",), (), ("--force",)):
        made = run("convert", odd, "--to", to, "--output-dir", f"{odd}-{to}", "--json", *words)
        assert made.code == 0
        assert made.json["output_dir"] == rf"odd\udcff-{to}"
    assert [file["name"] for file in run("inspect", odd, "--json").json["files"]][-1] == r"odd\udcff.txt"
    assert run("diff", odd, f"{odd}-{to}", "--json").json["b"] == rf"odd\udcff-{to}"


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(run: Run, tmp_path: Path):
    write_folder(tmp_path / "model", small_weights())
    (tmp_path / "file").write_text("")
    done = run("convert", "model", "--output-dir", "file/out")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: file/out: no folder can be made there: file is a file; choose another\n"


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path):
    write_folder(tmp_path / "model", small_weights())
    process = subprocess.Popen(
        [*COMMAND, "inspect", str(tmp_path / "model"), "--tensors"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, b"")


class Terminal:
    """A command whose standard error is a terminal."""

    def __init__(self, *words: str | Path, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment}
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, words)], stdout=subprocess.DEVNULL, stderr=theirs, env=env
        )
        os.close(theirs)

    def read(self) -> str:
        """What is drawn next; nothing when the command has ended."""
        try:
            return os.read(self._ours, 10_000).decode()
        except OSError:  # the other end is closed
            return ""

    def rest(self) -> str:
        """Everything that is drawn until the command ends."""
        drawn = "".join(iter(self.read, ""))
        os.close(self._ours)
        self.process.wait(60)
        return drawn


def test_ctrl_c_ends_with_130_and_one_line(tmp_path: Path):
    size = 1 << 38
    header = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)  # zeros that take no room, and minutes to read
    terminal = Terminal("verify", tmp_path / "huge.safetensors")
    assert "verifying" in terminal.read()
    interrupted = time.monotonic()
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.rest().endswith(f"\r{' ' * 99}\rerror: interrupted\r\n")
    assert terminal.process.returncode == 130
    assert time.monotonic() - interrupted < 20


def test_progress_is_drawn_on_a_terminal_that_wants_it_and_cleared(tmp_path: Path):
    write_folder(tmp_path / "model", small_weights())
    drawn = Terminal("verify", tmp_path / "model").rest()
    assert "\rverifying" in drawn
    assert " of 98.2 kB" in drawn
    assert drawn.endswith(f"\r{' ' * 99}\r")
    assert Terminal("verify", tmp_path / "model", NO_COLOR="1").rest() == ""
    assert Terminal("verify", tmp_path / "model", TERM="dumb").rest() == ""
    assert in_a_process("verify", tmp_path / "model").stderr == ""


def test_parser_takes_no_abbreviations():
    assert not any(parser.allow_abbrev for parser in parsers(cli_words.make_parser()))


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage]
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
            found += [sub for choice in action.choices.values() for sub in parsers(choice)]
    return found
