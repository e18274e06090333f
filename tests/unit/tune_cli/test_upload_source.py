"""What `tune upload` takes from a path, before it asks the Hub."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from adapter_files import lora, write_adapter
from small_llama import small_weights, write_folder
from tune_checkpoint import CheckpointError, convert
from tune_cli.commands._upload_base import with_base_named
from tune_cli.commands._upload_source import (
    Source,
    asked_for_repository,
    card_of,
    check_weights,
    find_source,
    proposed_name,
    refuse_secrets,
)
from tune_hub.errors import HubError, RefusedError
from tune_recipes.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(folder: Path, *, status: str = "finished") -> Path:
    (folder / "final").mkdir(parents=True)
    (folder / "final" / "config.json").write_text("{}")
    info = {
        "id": folder.name,
        "status": status,
        "recipe": "full_finetune.py",
        "config": "alpaca_llama2_full_finetune",
        "command": ["tune"],
        "seed": 0,
        "versions": {},
        "git_commit": None,
        "hardware": {},
        "start": "2026-01-02T03:04:05+00:00",
    }
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def make_adapter(folder: Path, base: str | None) -> Path:
    config = {} if base is None else {"base_model_name_or_path": base}
    return write_adapter(folder, lora("model.layers.0.self_attn.q_proj"), **config)


def source_of(path: Path) -> Source:
    return find_source(path, include_optimizer=False)


def test_of_a_run_its_final_model_is_meant():
    run = make_run(Path("runs/r1"))
    assert source_of(run).path == run / "final"
    assert source_of(run / "final").run == Path("runs/r1").resolve()
    assert [file.path for file in source_of(run).files] == ["config.json"]


def test_a_run_that_has_made_no_model_is_told_how_to_go_on():
    run = make_run(Path("runs/r1"), status="interrupted")
    shutil.rmtree(run / "final")
    with pytest.raises(UserError, match="not finished: it is interrupted") as caught:
        source_of(run)
    assert "tune run --resume runs/r1" in str(caught.value)


def test_the_last_checkpoint_that_is_whole_goes_with_a_run_if_asked_for():
    run = make_run(Path("runs/r1"))
    for step, names in (
        (1, ("checkpoint.json",)),
        (2, ("checkpoint.json", ".metadata")),
        (3, ("__0_0.distcp",)),
    ):
        for name in names:
            path = run / f"checkpoints/step_{step:08}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
    files = find_source(run, include_optimizer=True).files
    assert sorted(file.path for file in files) == [
        "checkpoints/step_00000002/.metadata",
        "checkpoints/step_00000002/checkpoint.json",
        "config.json",
    ]


def test_a_run_without_a_checkpoint_cannot_give_one():
    with pytest.raises(UserError, match="kept no checkpoint"):
        find_source(make_run(Path("runs/r1")), include_optimizer=True)


def test_a_repository_is_proposed_from_the_config_or_the_name_of_the_folder():
    assert proposed_name(source_of(make_run(Path("runs/r1")))) == "alpaca-llama2-full-finetune"
    folder = write_folder(Path("Mein Modell (2)"), small_weights())
    assert proposed_name(source_of(folder)) == "Mein-Modell-2"
    assert proposed_name(source_of(folder / "model.safetensors")) == "model"


def test_off_a_terminal_a_repository_must_be_named():
    source = source_of(make_run(Path("runs/r1")))
    with pytest.raises(UserError, match="REPO is missing") as caught:
        asked_for_repository(source, "alice")
    assert "`tune upload runs/r1 alice/alpaca-llama2-full-finetune`" in str(caught.value)


def test_damaged_weights_are_not_published():
    folder = write_folder(Path("model"), small_weights())
    check_weights(source_of(folder))
    check_weights(source_of(folder / "config.json"))
    weights = small_weights()
    weights["model.norm.weight"][0] = np.nan
    with pytest.raises(CheckpointError, match=r"damaged, so it is not published:\n  .*model\.norm\.weight"):
        check_weights(source_of(write_folder(Path("bad"), weights)))


@pytest.mark.parametrize("name", ["sub/model.safetensors", "other.safetensors", "sub/m.gguf", "beside.gguf"])
def test_damaged_weights_that_nobody_would_load_are_not_published_either(name: str):
    folder = write_folder(Path("model"), small_weights())
    (folder / "sub").mkdir()
    if name.endswith(".gguf"):
        (folder / name).write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 16)
    else:
        shutil.copy(folder / "model.safetensors", folder / name)
        check_weights(source_of(folder))
        os.truncate(folder / name, 5000)
    with pytest.raises(CheckpointError, match=re.escape(Path(name).name)):
        check_weights(source_of(folder))


def test_several_quantisations_of_a_model_are_each_verified():
    folder = write_folder(Path("model"), small_weights())
    (folder / "tokenizer.json").unlink()
    Path("both").mkdir()
    for quant in ("f16", "q8_0"):
        convert(folder, Path(quant), to="gguf", quant=quant)
        (file,) = Path(quant).glob("*.gguf")
        shutil.copy(file, Path("both") / f"model-{quant}.gguf")
    check_weights(source_of(Path("both")))
    os.truncate("both/model-q8_0.gguf", 5000)
    with pytest.raises(CheckpointError, match="model-q8_0"):
        check_weights(source_of(Path("both")))


def test_a_file_of_another_kind_is_no_damage():
    folder = write_folder(Path("model"), small_weights())
    (folder / "weight.bin").write_bytes(b"of another program")
    check_weights(source_of(folder))


def test_a_secret_is_not_published_and_not_shown():
    folder = write_folder(Path("model"), small_weights())
    refuse_secrets(source_of(folder))
    secret = "hf_" + "aB3dE5gH7jK9" * 3
    (folder / "notes.md").write_text(f"first\nuse {secret[:37]}\n")
    with pytest.raises(RefusedError, match=r"notes\.md:2: ") as caught:
        refuse_secrets(source_of(folder))
    assert secret[:37] not in str(caught.value)


def test_a_secret_in_a_file_that_stays_here_does_not_matter():
    folder = write_folder(Path("model"), small_weights())
    (folder / ".env").write_text("HF_TOKEN=hf_" + "aB3dE5gH7jK9" * 3)
    refuse_secrets(source_of(folder))


def test_an_adapter_that_names_a_repository_goes_up_as_it_is():
    source = source_of(make_adapter(Path("adapter"), "acme/base"))
    assert with_base_named(source) == (source, "acme/base")


@pytest.mark.parametrize("is_relative", [True, False])
def test_a_base_that_was_downloaded_is_named_by_its_repository(here: Path, capsys, is_relative: bool):
    Path("models/base").mkdir(parents=True)
    Path("models/base/.tune-download.json").write_text(
        '{"repository": "acme/base", "commit": null, "files": {}}'
    )
    named = "models/base" if is_relative else str(here / "models/base")
    adapter = make_adapter(Path("adapter"), named)
    before = (adapter / "adapter_config.json").read_bytes()
    source, base = with_base_named(source_of(adapter))
    assert base == "acme/base"
    uploaded = next(file.content for file in source.files if file.path == "adapter_config.json")
    assert json.loads(uploaded) == {**json.loads(before), "base_model_name_or_path": "acme/base"}
    assert (adapter / "adapter_config.json").read_bytes() == before
    assert f"uploaded with acme/base as the base model, in place of {named}" in capsys.readouterr().err
    assert b"acme/base" in card_of(source, "me/adapter", base)


@pytest.mark.parametrize(
    ("base", "hint"), [(None, "ORGANISATION/MODEL"), ("/models/llama2", "meta-llama/Llama-2-7b-hf")]
)
def test_an_adapter_that_nobody_else_could_load_is_refused_with_what_to_do(base: str | None, hint: str):
    with pytest.raises(RefusedError, match="others could not load the adapter") as caught:
        with_base_named(source_of(make_adapter(Path("adapter"), base)))
    assert f'"base_model_name_or_path": "{hint}"' in str(caught.value)
    assert "--adapter adapter" in str(caught.value)


@pytest.mark.parametrize("where", ["adapter/models", "elsewhere/models"])
def test_a_relative_base_is_looked_for_beside_the_adapter_and_where_the_run_was_started(where: str):
    Path(where, "base").mkdir(parents=True)
    record = '{"repository": "acme/base", "commit": null, "files": {}}'
    Path(where, "base/.tune-download.json").write_text(record)
    adapter = make_adapter(Path("adapter"), "models/base")
    if where.startswith("elsewhere"):
        run = make_run(Path("runs/r1"))
        info = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**info, "cwd": str(Path("elsewhere").resolve())}))
        shutil.rmtree(run / "final")
        adapter = adapter.rename(run / "final")
    source, base = with_base_named(source_of(adapter))
    assert base == "acme/base"
    card = card_of(source, "me/adapter", base)
    assert b"base_model: acme/base\n" in card
    assert b"`models/base`" not in card


def test_a_name_without_a_slash_is_no_folder():
    source = source_of(make_adapter(Path("adapter"), "gpt2"))
    assert with_base_named(source) == (source, "gpt2")


@pytest.mark.parametrize("is_file", [True, False])
def test_an_adapter_below_or_alone_names_no_folder_either(is_file: bool):
    Path("folder").mkdir()
    adapter = make_adapter(Path("folder/sub"), "/models/llama2")
    with pytest.raises(RefusedError, match="names a folder of this machine, /models/llama2"):
        with_base_named(source_of(adapter / "adapter_config.json" if is_file else adapter.parent))


def test_a_configuration_goes_up_without_the_folder_that_the_model_was_made_from():
    folder = write_folder(Path("model"), small_weights())
    config = json.loads((folder / "config.json").read_text())
    named = {**config, "_name_or_path": "/home/me/base", "text_config": {"_name_or_path": "acme/base"}}
    (folder / "config.json").write_text(json.dumps(named))
    source, _ = with_base_named(source_of(folder))
    uploaded = next(file.content for file in source.files if file.path == "config.json")
    assert json.loads(uploaded) == {**named, "_name_or_path": ""}


def test_text_that_tells_of_the_home_folder_is_warned_of(here: Path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    folder = write_folder(Path("model"), small_weights())
    (folder / "notes.md").write_text("from /home/me/data")
    (folder / "other.md").write_text("from /home/melanie and /home")
    with_base_named(source_of(folder))
    assert capsys.readouterr().err == "warning: notes.md: tells of your home folder, /home/me\n"


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_adapter_config_is_told(content: str):
    adapter = make_adapter(Path("adapter"), "acme/base")
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match=r"adapter_config\.json: (cannot be read|damaged)"):
        with_base_named(source_of(adapter))


def test_what_is_no_checkpoint_is_no_model():
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("hello")
    with pytest.raises((CheckpointError, HubError)):
        check_weights(source_of(Path("folder")))
