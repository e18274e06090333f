"""What `run`, `validate` and `cat` share: from the words of a command line to a checked Config."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune_recipes.config import Loaded

HELP = ("--help", "-h")


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into names (a recipe, a config) and what sets an option.

    `key=value`, `--key=value` and `~key` are one word each, `--key value` is two; `--key` alone is one where
    nothing or another option follows.
    """
    names: list[str] = []
    overrides: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and "=" not in word:
            overrides.append(word)
            if rest and not rest[0].startswith("--") and word not in HELP:
                overrides.append(rest.pop(0))
        elif word.startswith(("-", "~")) or ("=" in word and not _is_file(word)):
            overrides.append(word)
        else:
            names.append(word)
    return names, overrides


def _is_file(word: str) -> bool:
    """Whether a word with `=` in it is the path of a recipe or a config all the same."""
    from tune_recipes.catalog import kind_at

    return word.endswith((".py", ".yaml", ".yml")) and kind_at(word) == "file"


def load(recipe: Path, config_file: Path | None, overrides: Sequence[str], known: Sequence[str]) -> "Loaded":
    """Return the recipe's Config as the file and the command line make it.

    Raises:
        UserError: Anything about it is wrong; a config of another recipe is told as that.
    """
    from tune_recipes.catalog import RECIPES, config_names, recipe_label
    from tune_recipes.config import MissingValues, load_config
    from tune_recipes.errors import UserError
    from tune_recipes.overrides import UnknownOptions
    from tune_recipes.recipe_source import read_config_class

    try:
        return load_config(read_config_class(recipe), config_file, overrides, known=known)
    except UnknownOptions as error:
        if (other := _recipe_with(error.paths, recipe, config_file)) is None:
            raise
        raise UserError(_for_another(error, other, recipe, config_file)) from None
    except MissingValues as error:
        if config_file or recipe.parent != RECIPES or not config_names(recipe.stem):
            raise
        name = recipe_label(recipe)
        raise UserError(
            f"{error}\n  or start from a config: `tune ls {name}` lists those of {name}"
        ) from None


def _recipe_with(options: Sequence[str], recipe: Path, config_file: Path | None) -> str | None:
    """Return the built-in recipe that a config is for, or that has options which `recipe` has not."""
    from tune_recipes.catalog import CONFIGS, builtin_recipe, recipe_names
    from tune_recipes.options import type_at
    from tune_recipes.recipe_source import read_config_class

    if config_file and config_file.parent.parent == CONFIGS and config_file.parent.name != recipe.stem:
        return config_file.parent.name
    for name in recipe_names():
        path = builtin_recipe(name)
        if name != recipe.stem and path:
            config = read_config_class(path)
            if all(type_at(config, option) is not None for option in options):
                return name
    return None


def _for_another(error: Exception, other: str, recipe: Path, config_file: Path | None) -> str:
    from tune_recipes.catalog import CONFIGS, config_label, shown

    first, *more = str(error).splitlines()
    if config_file is None or "(from " in first:  # the command line's own words
        return f"{first}\n  it is an option of {other}, not of {recipe.stem}: `tune run {other} --help`"
    name = config_file.stem if config_file.parent.parent == CONFIGS else shown(config_file)
    told = "\n  ".join([first, *more][:3])
    return (
        f"{config_label(config_file)} is a config for {other}, not for {recipe.stem}:\n  {told}\n"
        f"  run it with `tune run {other} --config {name}`"
    )


def check(loaded: "Loaded") -> None:
    """Check that the files which a Config names exist, and say how to get a model that does not.

    Raises:
        UserError: One is missing.
    """
    from tune_recipes.checks import MissingFolder, check_inputs

    try:
        check_inputs(loaded)
    except MissingFolder as error:
        from tune_hub import resolve_alias
        from tune_recipes.catalog import shown

        repository = resolve_alias(error.folder.name) or "ORGANISATION/MODEL"
        error.args = (
            f"{error}\n  to get it: `hf download {repository} --local-dir {shown(error.folder)}`\n"
            f"  or, from a GGUF file: `tune convert-ckpt FILE.gguf --output-dir {shown(error.folder)}`",
        )
        raise
