"""`tune download`: what it prints, where it writes, and what can be done with it, against a Hub over HTTP."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from hub.server import Hub, wait_for
from meta_checkpoints import MetaModel, write_random
from small_llama import small_weights, write_folder
from support import TUNE, RunTune
from tokenizer_samples import write_sentencepiece
from tune_hub import ALIASES

ALIAS = "smollm2-135m"
REPOSITORY = ALIASES[ALIAS]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(write_folder(tmp_path_factory.mktemp("small") / "model", small_weights()))


def test_a_short_name_gives_its_model_and_the_command_that_trains_it(
    hub: Hub, tune_here: RunTune, files: dict[str, bytes]
):
    hub.add(REPOSITORY, files | {"model.bin": b"twice", "onnx/model.onnx": b"thrice"})
    done = tune_here("download", ALIAS)
    assert done.code == 0, done.err
    folder = Path("models") / ALIAS
    assert contents(folder) == files
    lines = done.out.splitlines()
    assert lines[0] == f"Successfully downloaded {REPOSITORY} and wrote to the following locations:"
    assert lines[1 : 1 + len(files)] == [str(folder / name) for name in sorted(files)]
    assert f"  tune run lora_finetune model={folder} data.path=FILE.jsonl" in lines
    told = sorted(line.partition(":")[0] for line in done.err.splitlines())
    assert told == sorted(files)  # one line a file off a terminal


def test_a_repository_goes_to_a_folder_of_its_name(hub: Hub, tune_here: RunTune, files: dict[str, bytes]):
    hub.add("acme/Small.v2", files)
    done = tune_here("download", "acme/Small.v2", "--json")
    result = json.loads(done.out)
    assert result["output_dir"] == result["train_on"] == "models/Small.v2"
    assert sorted(result["files"]) == sorted(files)
    assert result["fetched_bytes"] == result["nbytes"] == sum(map(len, files.values()))


def test_what_metas_repository_holds_becomes_a_folder_that_trains(
    hub: Hub, tune_here: RunTune, tmp_path: Path
):
    write_random(tmp_path / "meta", MetaModel(vocab_size=400))
    write_sentencepiece(tmp_path / "meta" / "tokenizer.model", 400)
    hub.add(ALIASES["llama2-meta"], contents(tmp_path / "meta"))
    done = tune_here("download", "llama2-meta")
    assert done.code == 0, done.err
    assert "Converted to models/llama2-meta-hf, the folder to train on" in done.out
    data = tmp_path / "data.jsonl"
    data.write_text("".join('{"instruction": "hi", "output": "there"}\n' for _ in range(8)))
    options = [f"data.path={data}", "max_steps=1", "batch_size=1"]
    trained = tune_here("run", "lora_finetune", "model=models/llama2-meta-hf", *options)
    assert trained.code == 0, trained.err
    run = json.loads((trained.run_folder / "run.json").read_text())
    assert run["base_model"]["repository"] == ALIASES["llama2-meta"]

    before = (Path("models/llama2-meta-hf") / "model.safetensors").stat().st_ino
    hub.clear_log()
    assert tune_here("download", "llama2-meta").code == 0
    assert not hub.asked("/resolve/")  # nothing fetched, nothing converted
    assert (Path("models/llama2-meta-hf") / "model.safetensors").stat().st_ino == before


def test_without_conversion_the_files_are_as_they_were_published(
    hub: Hub, tune_here: RunTune, tmp_path: Path
):
    write_random(tmp_path / "meta", MetaModel())
    hub.add("acme/original", contents(tmp_path / "meta"))
    done = tune_here("download", "acme/original", "--no-convert")
    assert done.code == 0, done.err
    assert [path.name for path in Path("models").iterdir()] == ["original"]
    assert "Converted" not in done.out


def test_a_dry_run_says_what_is_here_and_writes_nothing(
    hub: Hub, tune_here: RunTune, files: dict[str, bytes], tmp_path: Path
):
    hub.add(REPOSITORY, files)
    done = tune_here("download", ALIAS, "--dry-run")
    assert done.code == 0, done.err
    assert "  fetch " in done.out
    assert list(tmp_path.iterdir()) == []
    tune_here("download", ALIAS)
    plan = json.loads(tune_here("download", ALIAS, "--dry-run", "--json").out)
    assert {file["state"] for file in plan["files"]} == {"present"}
    assert plan["missing_bytes"] == 0


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "`hf auth login`, or set HF_TOKEN"),
        ("hf_bob", "access has not been granted"),
        ("hf_wrong", "the token in HF_TOKEN is not valid"),
    ],
)
def test_a_gated_model_says_where_to_accept_its_terms(
    hub: Hub, tune_here: RunTune, set_environment, files: dict[str, bytes], token: str | None, said: str
):
    hub.add("acme/gated", files, gated="manual")
    set_environment(HF_TOKEN=token)
    done = tune_here("download", "acme/gated")
    assert done.code == 2
    assert said in done.err
    assert token != "hf_bob" or f"open {hub.url}/acme/gated" in done.err
    assert not Path("models").exists()
    assert "hf_bob" not in done.err and "hf_wrong" not in done.err


def test_a_token_may_come_by_standard_input(
    hub: Hub, tmp_path: Path, files: dict[str, bytes], tmp_path_factory
):
    hub.add("acme/private", files, private=True)
    done = subprocess.run(
        [*TUNE, "download", "acme/private", "--hf-token", "-"],
        input="hf_alice\n",
        cwd=tmp_path,
        env=hub.environment(tmp_path_factory.mktemp("home")),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "models" / "private") == files
    assert "hf_alice" not in done.stdout + done.stderr


def test_an_interrupted_download_goes_on(hub: Hub, tmp_path: Path, files: dict[str, bytes], tmp_path_factory):
    weights = os.urandom(3_000_000)
    hub.add("acme/small", files | {"model.safetensors": weights})
    hub.fail("_cdn", hold_after=1_000_000)
    environment = hub.environment(tmp_path_factory.mktemp("home"))
    command = [*TUNE, "download", "acme/small"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    partials = tmp_path / "models" / "small" / ".tune-download"
    wait_for(lambda: sum(path.stat().st_size for path in partials.glob("*")) >= 900_000)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on where it stopped" in said
    assert "Traceback" not in said
    hub.release()
    hub.clear_log()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "small" / "model.safetensors").read_bytes() == weights
    (begin,) = [int(seen.range[6:].rstrip("-")) for seen in hub.asked("_cdn") if seen.range]
    assert begin >= 900_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lama2"], "lama2: no such model; did you mean llama2?"),
        ([], "MODEL is missing"),
        (["llama2", "--list"], "--list takes no MODEL"),
        (["acme/none"], "acme/none: no such repository"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_in_the_users_words(hub: Hub, tune_here: RunTune, words: list[str], said: str):
    done = tune_here("download", *words)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_the_list_asks_nobody(hub: Hub, tune_here: RunTune):
    done = tune_here("download", "--list")
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["MODEL", "REPOSITORY"]
    assert dict(rows[1:]) == ALIASES
    assert hub.requests == []
    models = json.loads(tune_here("download", "--list", "--json").out)
    assert {model["alias"]: model["repository"] for model in models} == ALIASES


def test_the_list_online_has_sizes_licences_and_gates(hub: Hub, tune_here: RunTune, files: dict[str, bytes]):
    card = b"---\nlicense: apache-2.0\n---\n"
    hub.add(REPOSITORY, files | {"README.md": card, "model.bin": b"not counted"})
    hub.add(ALIASES["llama3.2-1b"], files, gated="manual")
    models = json.loads(tune_here("download", "--list", "--online", "--json").out)
    known = {model["alias"]: model for model in models if not model.get("missing")}
    assert set(known) == {ALIAS, "llama3.2-1b"}
    assert known[ALIAS]["license"] == "apache-2.0"
    assert known[ALIAS]["size"] == sum(map(len, files.values())) + len(card)
    assert not known[ALIAS]["gated"]
    assert known["llama3.2-1b"]["gated"]
    table = tune_here("download", "--list", "--online").out
    assert "to be asked for" in table and "not found" in table


def test_what_was_uploaded_comes_back_the_same(
    hub: Hub, tune_here: RunTune, set_environment, files: dict[str, bytes]
):
    set_environment(HF_TOKEN="hf_alice")
    write_folder(Path("mine"), small_weights())
    assert tune_here("upload", "mine", "acme/mine").code == 0
    assert tune_here("download", "acme/mine").code == 0
    got = contents(Path("models/mine"))
    assert {name: got[name] for name in files} == contents(Path("mine"))


def test_the_command_loads_the_client_only_to_ask(tune: RunTune):
    done = tune("download", "--list")
    assert done.code == 0
    assert not done.modules & {"huggingface_hub", "httpx2", "torch", "numpy", "yaml"}
