"""`tune ls`, read live from the folders of the recipes, with no import beyond Python's own."""

import os
import sys

import tune_recipes

HEADER = ("RECIPE", "CONFIGS")
NONE = "<>"


def read_catalog() -> dict[str, list[str]]:
    """Return the file names of the built-in recipes, each with those of its configs, sorted."""
    root = tune_recipes.__path__[0]
    recipes = sorted(name for name in os.listdir(f"{root}/recipes") if name.endswith(".py"))  # noqa: PTH208 (pathlib costs more)
    return {recipe: _configs(f"{root}/configs/{recipe.removesuffix('.py')}") for recipe in recipes}


def _configs(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".yaml"))  # noqa: PTH208
    except FileNotFoundError:
        return []


def write_listing(only: str | None = None) -> None:
    """Print recipes beside their configs, and a command to begin with.

    Args:
        only: File name of the one recipe to list.
    """
    catalog = {recipe: configs for recipe, configs in read_catalog().items() if only in (None, recipe)}
    rows: list[tuple[str, str]] = [HEADER]
    for recipe, configs in catalog.items():
        rows += zip([recipe, *[""] * len(configs)], configs or [NONE], strict=False)
    width = max(24, *(len(recipe) + 4 for recipe, _ in rows))
    sys.stdout.write("".join(f"{recipe:<{width}}{config}\n" for recipe, config in rows))
    sys.stdout.write(f"\nTo get started you can run:\n$ {_first_command(catalog)}\n")


def _first_command(catalog: dict[str, list[str]]) -> str:
    """Return the run of a demo, which needs no download; of the first recipe that has a config otherwise."""
    pairs = [(recipe, config) for recipe, configs in catalog.items() for config in configs]
    if not pairs:
        return f"tune run {next(iter(catalog))} --help"
    starts = ("demo_full", "demo", "")
    recipe, config = next(pair for start in starts for pair in pairs if pair[1].startswith(start))
    folder = f"{tune_recipes.__path__[0]}/configs/{recipe.removesuffix('.py')}"
    return f"tune run {recipe} --config {config}{still_to_give(f'{folder}/{config}')}"


def still_to_give(config_file: str) -> str:
    """Return the words that a built-in config's open values need behind it, as ` model=FOLDER`."""
    words, group = "", ""
    with open(config_file, encoding="utf-8") as file:  # noqa: PTH123
        for line in file:
            key, _, value = line.partition("#")[0].partition(":")
            if not key.startswith((" ", "#")):
                group = key
            if value.strip() == "???":
                name = key if key == group else f"{group}.{key.strip()}"
                words += f" {name}={'FOLDER' if name == 'model' else 'VALUE'}"
    return words
