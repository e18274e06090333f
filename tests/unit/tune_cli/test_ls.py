"""`tune ls` pairs recipes with their configs, read live from the folders."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tune_recipes
from tune_cli.listing import read_catalog, still_to_give, write_listing
from tune_recipes.catalog import recipe_names


@pytest.fixture
def catalog(tmp_path, monkeypatch) -> Path:
    """A copy of the package's folders, in which there are recipes to add and to take away."""
    package = Path(tune_recipes.__path__[0])
    for name in ("recipes", "configs"):
        shutil.copytree(package / name, tmp_path / "package" / name)
    monkeypatch.setattr(tune_recipes, "__path__", [str(tmp_path / "package")])
    return tmp_path / "package"


def test_recipes_stand_beside_their_configs_in_two_columns(tune):
    lines = tune("ls").out.splitlines()
    assert lines[0] == "RECIPE                  CONFIGS"
    assert lines[1] == "full_finetune.py        alpaca_llama2_full_finetune.yaml"
    assert lines[2] == "                        alpaca_mistral_full_finetune.yaml"
    assert "lora_finetune.py        alpaca_llama2_lora_finetune.yaml" in lines
    assert "generate.py             alpaca_generate.yaml" in lines
    assert lines[-3:-1] == ["", "To get started you can run:"]


def test_plain_ls_ends_with_a_demo_that_needs_nothing(tune):
    last = tune("ls").out.splitlines()[-1]
    assert last == "$ tune run full_finetune.py --config demo_full_finetune.yaml"


@pytest.mark.parametrize("recipe", recipe_names())
def test_the_closing_hint_is_a_command_that_works(tune_here, trained, recipe):
    hint = tune_here("ls", recipe).out.splitlines()[-1]
    tune, run, name, _, config, *given = shlex.split(hint.removeprefix("$ "))
    assert (tune, run, name) == ("tune", "run", f"{recipe}.py")
    assert config.startswith("demo_")
    given = [word.replace("FOLDER", trained) for word in given]
    assert tune_here("validate", config, name, *given).code == 0


def test_a_value_that_is_open_in_a_group_is_named_with_its_group(tmp_path):
    (tmp_path / "c.yaml").write_text("# x: ???\nmodel: ???\ndata:\n  path: ???\nseed: 3\n")
    assert still_to_give(str(tmp_path / "c.yaml")) == " model=FOLDER data.path=VALUE"


def test_one_recipe_is_listed_alone(tune_here):
    said = tune_here("ls", "lora_finetune")
    assert said == tune_here("ls", "lora_finetune.py")
    assert [line.split()[0] for line in said.out.splitlines() if line.endswith(".yaml")][:1] == [
        "lora_finetune.py"
    ]
    assert "full_finetune" not in said.out


def test_json_maps_recipes_to_configs(tune_here):
    listed = json.loads(tune_here("ls", "--json").out)
    assert listed == read_catalog()
    assert json.loads(tune_here("ls", "generate", "--json").out) == {"generate.py": listed["generate.py"]}


def test_a_recipe_without_configs_is_drawn_with_empty_brackets(catalog, capsys):
    shutil.rmtree(catalog / "configs" / "generate")
    write_listing()
    assert "\ngenerate.py             <>\n" in capsys.readouterr().out
    write_listing("generate.py")
    assert capsys.readouterr().out.endswith("\n$ tune run generate.py --help\n")


def test_what_is_added_to_the_folders_is_listed(catalog, capsys):
    (catalog / "recipes" / "a_recipe_with_quite_a_long_name.py").touch()
    (catalog / "configs" / "a_recipe_with_quite_a_long_name").mkdir()
    (catalog / "configs" / "a_recipe_with_quite_a_long_name" / "c.yaml").touch()
    (catalog / "configs" / "a_recipe_with_quite_a_long_name" / "notes.txt").touch()
    (catalog / "recipes" / "__pycache__").mkdir(exist_ok=True)
    write_listing()
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert second == "a_recipe_with_quite_a_long_name.py    c.yaml"
    assert first.index("CONFIGS") == second.index("c.yaml")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["full_finetun"],
            "full_finetun: no such built-in recipe; did you mean full_finetune?\n  `tune ls` lists",
        ),
        (["lora"], "did you mean lora_finetune?"),
        (["demo_full_finetune"], "no such built-in recipe"),
        (["full_finetune", "generate"], "generate: one word more than `tune ls` takes\n  `tune ls --help`"),
        (["--jsno"], "--jsno: no such option; did you mean --json?"),
        (["--json=maybe"], "--json: it takes no value, got 'maybe'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_ls_does_not_take_is_told(refused, words, says):
    assert says in refused("ls", *words)


@pytest.mark.parametrize(
    "words", [["ls"], ["ls", "--json"], ["cat", "demo_full_finetune"], ["run", "--help"]], ids=" ".join
)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_who_has_enough_ends_it_quietly(words, unbuffered):
    program = "import sys; from tune_cli.entry import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *words]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=env, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_an_output_that_takes_nothing_more_is_told_in_one_line(monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    program = "import sys; from tune_cli.entry import main; sys.exit(main())"
    for words in (["ls"], ["ls", "--json"], ["run", "--help"]):
        command = [sys.executable, "-c", program, *words]
        with open("/dev/full", "w") as full:  # noqa: PTH123
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr == "error: cannot write to standard output: No space left on device\n"
        closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
        done = subprocess.run(closed, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "error: cannot write to standard output: it is closed\n")
