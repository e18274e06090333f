"""The run folder: what is in it, and what is told when it is not whole."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from tune_recipes import runs
from tune_recipes.catalog import RECIPES, config_label, find_config
from tune_recipes.config import load_config
from tune_recipes.errors import UserError

FULL = RECIPES / "full_finetune.py"


@pytest.fixture
def run(load, tmp_path) -> Path:
    """The folder of a run that was just made."""
    return runs.create_run(load("seed=7", "output_dir=out dir"), FULL, ["tune", "run", "é b"])


def test_a_new_run_has_its_folder_with_everything_that_will_run(run, load, configs):
    assert re.fullmatch(r"\d{8}-\d{6}-full_finetune-[0-9a-f]{4}", run.name)
    assert run.parent == Path("out dir")
    names = sorted(path.name for path in run.iterdir())
    assert names == ["checkpoints", "config.yaml", "origins.json", "recipe.py", "run.json"]
    assert (run / "recipe.py").read_bytes() == FULL.read_bytes()
    assert (
        load_config(configs.full, run / "config.yaml").config == load("seed=7", "output_dir=out dir").config
    )
    origins = json.loads((run / "origins.json").read_text())
    assert (origins["seed"], origins["epochs"]) == ("command line: seed=7", "default")


def test_run_json_says_what_runs(run):
    info = runs.read_info(run)
    assert (info.id, info.status, info.seed, info.world_size) == (run.name, "running", 7, 1)
    assert info.command == ["tune", "run", "é b"]
    assert (info.recipe, info.config) == (str(FULL), None)
    assert {"python", "torch", "tune-recipes"} <= set(info.versions)
    assert info.hardware["cores"]
    assert info.git_commit is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", info.git_commit)
    assert info.start.endswith("+00:00")


def test_a_run_is_named_for_its_config(load):
    loaded = load(yaml="model: m\ndata: {path: d}\n")
    assert "-c-" in runs.create_run(loaded, FULL, []).name


def test_two_runs_of_one_second_have_folders_of_their_own(load):
    folders = {runs.create_run(load(), FULL, []) for _ in range(3)}
    assert len(folders) == 3


@pytest.mark.parametrize("output_dir", ["file", "file/below", "a\0b"])
def test_a_folder_that_cannot_be_written_is_told(load, output_dir):
    Path("file").touch()
    with pytest.raises(
        UserError, match=r"output_dir: cannot write to .*\n  choose another with output_dir=FOLDER"
    ):
        runs.create_run(load(f"output_dir={output_dir}"), FULL, [])


def test_home_is_the_home_folder(load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert runs.create_run(load("output_dir=~/r"), FULL, []).parent == tmp_path / "home" / "r"


def test_what_changes_in_run_json_is_changed_and_the_rest_stays(run):
    before = runs.read_info(run)
    after = runs.update_info(run, status="finished", final_loss=0.5)
    assert after == runs.read_info(run) == msgspec.structs.replace(before, status="finished", final_loss=0.5)


def test_a_loss_that_is_no_number_leaves_run_json_readable(run):
    runs.update_info(run, final_loss=float("nan"))
    assert runs.update_info(run, status="failed").final_loss is None


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("nope", "nope: not a run folder: no such folder\n  `tune run` makes one"),
        ("empty", "empty: not a run folder: no run.json in it"),
        ("file", "file: not a run folder: it is a file"),
        ("half", "half/run.json: damaged, or not written by tune: Input data was truncated"),
        ("other", "other/run.json: damaged, or not written by tune: Object missing required field `id`"),
    ],
)
def test_a_folder_that_is_no_run_is_told(tmp_path, monkeypatch, folder, says):
    monkeypatch.chdir(tmp_path)
    for name, text in (("empty", None), ("half", '{"id": '), ("other", "{}")):
        Path(name).mkdir()
        if text:
            (Path(name) / "run.json").write_text(text)
    Path("file").touch()
    with pytest.raises(UserError) as error:
        runs.read_info(Path(folder))
    if folder in ("nope", "empty", "file"):
        says = says.partition("\n")[0]
    assert says in str(error.value)


def complaint(folder: str) -> str:
    with pytest.raises(UserError) as error:
        runs.read_info(Path(folder))
    return str(error.value)


def test_the_latest_run_nearby_is_named(load):
    assert "`tune run` makes one" in complaint("nope")
    first = runs.create_run(load(), FULL, [])
    later = first.rename(first.with_name("9" + first.name))
    runs.create_run(load(), FULL, [])
    for asked in ("runs", "runs/nope", "nope"):
        assert complaint(asked).endswith(f"\n  the latest run in runs is {later}")


LINES = "".join(f'{{"step": {step}, "loss": 1.5}}\n' for step in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("text", "step", "kept"),
    [
        (LINES, 2, [1, 2]),
        (LINES, 0, []),
        (LINES, 9, [1, 2, 3, 4]),
        (LINES + '{"step": 5, "lo', 9, [1, 2, 3, 4]),
        (LINES + "\0\0\0", 9, [1, 2, 3, 4]),
        (LINES + "7\n", 9, [1, 2, 3, 4]),
        (LINES + '{"loss": 1}\n', 9, [1, 2, 3, 4]),
        (LINES.rstrip(), 9, [1, 2, 3, 4]),
        (LINES.replace("1.5", "NaN"), 2, [1, 2]),
        ("", 3, []),
    ],
)
def test_metrics_are_cut_back_to_the_step_and_lose_a_half_written_line(tmp_path, text, step, kept):
    (tmp_path / "metrics.jsonl").write_text(text)
    runs.cut_metrics(tmp_path, step)
    after = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in after.splitlines()] == kept
    assert after == "" or after.endswith("\n")


def test_a_run_without_metrics_stays_without(tmp_path):
    runs.cut_metrics(tmp_path, 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "data_format", "command"),
    [
        (None, "chat", 'tune run generate model={} prompt="..."'),
        (None, "completion", 'tune run generate prompt_format=raw model={} prompt="..."'),
        (None, "alpaca", 'tune run generate prompt_format=alpaca model={} prompt="..."'),
        (
            "demo_full_finetune",
            "chat",
            'tune run generate --config demo_generate model={} prompt="What is the capital of France?"',
        ),
    ],
)
def test_the_next_command_asks_the_trained_model(run, config, data_format, command):
    runs.update_info(run, config=config_label(find_config(config)) if config else None)
    assert runs.next_command(run, data_format) == command.format(f"'{run}/final'")
