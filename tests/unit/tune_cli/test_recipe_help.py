"""`tune run RECIPE --help` lists every option of a recipe, built in or your own."""

from pathlib import Path

import pytest

from tune_recipes.catalog import RECIPES, recipe_names
from tune_recipes.options import list_options
from tune_recipes.recipe_source import read_config_class


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_option_is_listed_with_type_default_and_documentation(tune_here, recipe):
    out = tune_here("run", recipe, "--help").out
    assert max(map(len, out.splitlines())) <= 80
    told = " ".join(out.split())
    for option in list_options(read_config_class(RECIPES / f"{recipe}.py")):
        assert f" {option.path} " in told
        assert " ".join(option.doc.split()) in told
    assert "[auto|fp32|bf16, default: auto]" in told


def test_defaults_choices_and_what_must_be_given_are_told(tune_here):
    told = " ".join(tune_here("run", "lora_finetune.py", "-h").out.split())
    assert "optim.lr Peak learning rate. [float, default: 0.0002]" in told
    assert "[text, required]" in told
    assert "[cosine|linear|constant, default: cosine]" in told
    assert "[int, default: none]" in told
    assert "OPTIM: The optimizer; adapters take a higher rate than whole models." in told
    assert "CONFIGS alpaca_llama2_lora_finetune.yaml" in told


@pytest.mark.parametrize("recipe", recipe_names())
def test_the_example_is_a_command_that_works(tune_here, trained, recipe):
    lines = tune_here("run", recipe, "--help").out.splitlines()
    name, _, config, *given = lines[lines.index("EXAMPLES") + 1].split()[3:]
    given = [word.replace("FOLDER", trained) for word in given]
    assert tune_here("validate", config, name, *given).code == 0


def test_a_config_shows_its_values_too(tune_here):
    told = " ".join(tune_here("run", "full_finetune", "--help", "--config", "demo_full_finetune").out.split())
    assert "Peak learning rate. [float, this config: 0.003, default: 0.00002]" in told
    assert tune_here("run", "--config", "demo_full_finetune", "--help").out.split() == told.split()


@pytest.mark.parametrize(
    "words",
    [["--help", "generate"], ["-h", "generate"], ["generate", "top_k=3", "--help"], ["generate", "help"]],
)
def test_help_may_stand_anywhere(tune_here, words):
    assert tune_here("run", *words).out == tune_here("run", "generate", "--help").out


def test_a_recipe_of_your_own_lists_what_you_added_and_torch_stays_out(tune, tmp_path):
    assert tune("cp", "full_finetune", "my recipe.py").code == 0
    source = (tmp_path / "my recipe.py").read_text()
    source = source.replace("Fine-tune every weight", "Fine-tune my weights", 1)
    added = "    warp: int = SPEED\n    '''How fast: it is `SPEED`.'''\n    init: Literal"
    source = source.replace("    init: Literal", added, 1).replace(
        "class Config", "SPEED = 9\n\n\nclass Config", 1
    )
    (tmp_path / "my recipe.py").write_text(source)
    done = tune("run", "my recipe.py", "--help")
    assert done.out.startswith("Fine-tune my weights")
    assert "warp                How fast: it is `SPEED`. [int, default: 9]" in done.out
    assert "$ tune run 'my recipe.py' --config CONFIG\n" in done.out
    assert (done.code, done.err) == (0, "")
    assert not {"torch", "omegaconf", "numpy"} & done.modules


def test_a_copy_under_the_same_name_elsewhere_is_called_by_its_path(tune_here):
    Path("other").mkdir()
    tune_here("cp", "generate", "other")
    out = tune_here("run", "other/generate.py", "--help").out
    assert "$ tune run other/generate.py --config CONFIG" in out
    assert "CONFIGS" not in out


@pytest.mark.parametrize("words", [["run", "--debug", "--help"], ["launch", "-h", "--debug"]])
def test_help_without_a_recipe_is_the_commands_own(tune_here, words):
    from tune_cli.pages import FOLDER

    assert tune_here(*words).out == (FOLDER / "run.txt").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nope.py", "--help"], "nope.py: no such recipe"),
        (["generate", "--help", "--config", "nope"], "nope: no such config"),
        (["--help", "--config", "c.yaml"], "as in `tune run full_finetune --config c.yaml`"),
        (["not_a_recipe.py", "--help"], "not_a_recipe.py: declares no class Config"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_on_what_is_no_recipe_is_told(refused, tmp_path, words, says):
    (tmp_path / "not_a_recipe.py").write_text("import torch\n")
    (tmp_path / "c.yaml").write_text("seed: 3\n")
    assert says in refused("run", *words)
