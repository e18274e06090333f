"""Recipes are read top to bottom: little is shared between them, and nothing stands twice."""

import ast
import itertools

import pytest

from tune_recipes.catalog import CONFIGS, RECIPES, config_names, recipe_names
from tune_recipes.config import load_config
from tune_recipes.options import list_options
from tune_recipes.recipe_source import read_config_class
from tune_recipes.yaml_file import OPEN, read_yaml

FLOW = {"main", "train"}  # what every recipe has, and tells in its own way
SHIPPED = [(recipe, config) for recipe in recipe_names() for config in config_names(recipe)]


def source_lines(recipe: str) -> list[str]:
    lines = (RECIPES / f"{recipe}.py").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


@pytest.mark.parametrize("pair", list(itertools.combinations(recipe_names(), 2)), ids="-".join)
def test_two_recipes_share_at_most_half_of_their_lines(pair):
    one, other = (source_lines(recipe) for recipe in pair)
    rest = list(other)
    shared = 0
    for line in one:
        if line in rest:
            rest.remove(line)
            shared += 1
    assert shared <= min(len(one), len(other)) / 2, f"{shared} of {len(one)} and {len(other)} lines"


def test_no_helper_stands_in_two_recipes():
    seen: dict[str, str] = {}
    for recipe in recipe_names():
        tree = ast.parse((RECIPES / f"{recipe}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name not in FLOW:
                body = ast.dump(
                    ast.Module(node.body[1:] if ast.get_docstring(node) else node.body, type_ignores=[])
                )
                assert seen.setdefault(body, recipe) == recipe, (
                    f"{node.name} stands in {seen[body]} and {recipe}"
                )


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_is_short_and_its_options_are_documented(recipe):
    path = RECIPES / f"{recipe}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 200
    undocumented = [option.path for option in list_options(read_config_class(path)) if not option.doc]
    assert not undocumented


@pytest.mark.parametrize(("recipe", "config"), SHIPPED, ids="/".join)
def test_every_shipped_config_converts_to_its_struct(recipe, config):
    path = CONFIGS / recipe / f"{config}.yaml"
    given, _ = read_yaml(path)
    left_open = [f"{name}=somewhere" for name, value in given.items() if value == OPEN]
    load_config(read_config_class(RECIPES / f"{recipe}.py"), path, left_open)


@pytest.mark.parametrize(("recipe", "config"), SHIPPED, ids="/".join)
def test_every_shipped_config_is_short_named_for_its_recipe_and_says_only_what_differs(recipe, config):
    path = CONFIGS / recipe / f"{config}.yaml"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 25
    assert config.endswith(f"_{recipe}")
    given, lines = read_yaml(path)
    for option in list_options(read_config_class(RECIPES / f"{recipe}.py")):
        value = given
        for part in option.path.split("."):
            value = value.get(part, ...) if isinstance(value, dict) else ...
        assert value is ... or value != option.default, f"{lines[option.path]} repeats the default"
