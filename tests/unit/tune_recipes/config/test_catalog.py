"""Names of recipes and configs, and what is suggested for those that are not there."""

from pathlib import Path

import pytest

from tune_recipes.catalog import (
    CONFIGS,
    RECIPES,
    builtin_files,
    config_label,
    expand_home,
    find_config,
    find_recipe,
    local_path,
    recipe_label,
    recipe_of_config,
)
from tune_recipes.errors import UserError
from tune_recipes.suggest import did_you_mean, nearest

FULL = RECIPES / "full_finetune.py"
DEMO = CONFIGS / "full_finetune" / "demo_full_finetune.yaml"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["full_finetune", "full_finetune.py"])
def test_a_recipe_is_found_with_or_without_suffix(name):
    assert find_recipe(name) == FULL


@pytest.mark.parametrize("name", ["demo_full_finetune", "demo_full_finetune.yaml", "demo_full_finetune.yml"])
def test_a_config_is_found_with_or_without_suffix(name):
    assert find_config(name) == DEMO


def test_a_file_as_it_is_typed_wins_over_a_built_in_one():
    Path("full_finetune.py").touch()
    Path("demo_full_finetune.yaml").touch()
    assert find_recipe("full_finetune.py") == Path("full_finetune.py")
    assert find_recipe("full_finetune") == FULL
    assert find_config("demo_full_finetune.yaml") == Path("demo_full_finetune.yaml")
    assert find_config("demo_full_finetune") == DEMO


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("full_finetun", "did you mean full_finetune?"),
        ("full-finetune", "did you mean full_finetune?"),
        ("lora", "did you mean lora_finetune?"),
        (
            "demo_full_finetune",
            "is a config, not a recipe; run it with `tune run full_finetune --config demo_full",
        ),
        ("here.yaml", "is a config, not a recipe; run it with `tune run RECIPE --config here.yaml`"),
        ("folder", "it is a folder; a recipe is a Python file"),
        (".", "it is a folder"),
        ("./nope.py", "no such recipe file\n  `tune cp full_finetune ./nope.py` makes one to start from"),
        ("./nope", "`tune cp full_finetune ./nope.py` makes one"),
        ("mine", "did you mean mine.py?"),
        ("./mine", "did you mean ./mine.py?"),
        ("here.txt", "a recipe is a Python file"),
        ("", "'': no such recipe"),
        ("x" * 5000, "no such recipe"),
        ("*", "no such recipe"),
        ("zzz", "zzz: no such recipe\n  `tune ls` lists the recipes and their configs"),
    ],
)
def test_a_recipe_that_is_not_there(name, says):
    for file in ("here.yaml", "here.txt", "mine.py"):
        Path(file).touch()
    Path("folder").mkdir()
    with pytest.raises(UserError) as error:
        find_recipe(name)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("demo_ful_finetune", "did you mean demo_full_finetune?"),
        ("llama2_lora", "did you mean alpaca_llama2_lora_finetune?"),
        ("full_finetune", "is a recipe, not a config; `tune ls full_finetune` lists its configs"),
        ("folder", "it is a folder; a config is a YAML file"),
        ("mine", "did you mean mine.yaml?"),
        ("nope/c.yaml", "no such config file"),
        ("", "'': no such config"),
        ("x" * 5000, "no such config"),
        ("zzz", "zzz: no such config\n  `tune ls` lists them"),
    ],
)
def test_a_config_that_is_not_there(name, says):
    Path("mine.yaml").touch()
    Path("folder").mkdir()
    with pytest.raises(UserError) as error:
        find_config(name)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("path", "recipe"),
    [
        (DEMO, "full_finetune"),
        (Path("mine_lora_finetune.yaml"), "lora_finetune"),
        (Path("a/generate.yaml"), "generate"),
    ],
)
def test_the_recipe_of_a_config_is_known_from_its_folder_or_its_name(path, recipe):
    assert recipe_of_config(path, path.name) == recipe


def test_a_config_whose_name_does_not_tell_asks_for_the_recipe():
    with pytest.raises(UserError, match=r"for which recipe\?.*\n.*`tune validate c.yaml full_finetune`"):
        recipe_of_config(Path("c.yaml"), "c.yaml")


def test_built_in_files_are_called_by_name_and_others_by_path():
    assert (recipe_label(FULL), config_label(DEMO)) == ("full_finetune", "demo_full_finetune.yaml")
    assert (recipe_label(Path("my r.py")), config_label(Path("a/c.yaml"))) == ("'my r.py'", "a/c.yaml")


def test_what_ships_with_the_package_has_a_name_in_configs():
    assert "builtin:demo/capitals.jsonl" in builtin_files()
    assert all(local_path(name).exists() for name in builtin_files())


@pytest.mark.parametrize("name", ["builtin:../configs", "builtin:demo/../../x", "builtin:/etc/hostname"])
def test_what_does_not_ship_with_the_package_is_no_built_in_path(name):
    with pytest.raises(UserError, match="does not ship with tune; this does: builtin:demo, "):
        local_path(name)


def test_home_is_put_in_and_an_unknown_user_is_left_alone(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home("~/x") == Path("/home/me/x")
    assert expand_home("~no-such-user/x") == Path("~no-such-user/x")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("lr", ["optim.lr"]),
        ("optim.lrr", ["optim.lr"]),
        ("name", ["optim.name", "schedule.name"]),
        ("OUTPUT-DIR", ["output_dir"]),
        ("out", ["output_dir"]),
        ("o", []),
        ("xyz", []),
        ("", []),
    ],
)
def test_the_nearest_name(name, near):
    assert nearest(name, ["optim.lr", "optim.name", "schedule.name", "output_dir"]) == near


def test_nothing_near_suggests_nothing():
    assert did_you_mean("xyz", ["abc"]) == ""
    assert did_you_mean("xyz", []) == ""
