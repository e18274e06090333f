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


def recipe_for(names: Sequence[str], config_file: Path, config: str, command: str) -> Path:
    """Return the recipe that is named first behind a config, or the one that the config is for.

    Raises:
        UserError: There is no such recipe, or the config does not tell.
    """
    from tune_recipes.catalog import builtin_recipe, find_recipe, recipe_names, recipe_of_config
    from tune_recipes.errors import UserError
    from tune_recipes.options import type_at
    from tune_recipes.recipe_source import read_config_class

    if not names:
        return find_recipe(recipe_of_config(config_file, config, command))
    try:
        return find_recipe(names[0])
    except UserError:
        option = names[0].replace("-", "_")
        recipes = [path for name in recipe_names() if (path := builtin_recipe(name))]
        if all(type_at(read_config_class(path), option) is None for path in recipes):
            raise
    raise UserError(f"{names[0]}: a value must follow, as in `{names[0]}=VALUE`")


def load(
    recipe: Path,
    config_file: Path | None,
    overrides: Sequence[str],
    known: Sequence[str],
    *,
    keep_open: bool = False,
) -> "Loaded":
    """Return the recipe's Config as the file and the command line make it.

    Args:
        recipe: The recipe file.
        config_file: The config, if there is one.
        overrides: The words that set options.
        known: The command's own options, for suggestions.
        keep_open: Show what is open as `???` in place of refusing it.

    Raises:
        UserError: Anything about it is wrong; a config of another recipe is told as that.
    """
    from tune_recipes.catalog import RECIPES, config_names, recipe_label
    from tune_recipes.config import MissingValues, load_config
    from tune_recipes.errors import UserError
    from tune_recipes.overrides import UnknownOptions
    from tune_recipes.recipe_source import read_config_class

    if config_file:
        _refuse_anothers(recipe, config_file)
    try:
        return load_config(
            read_config_class(recipe), config_file, overrides, known=known, keep_open=keep_open
        )
    except UnknownOptions as error:
        if (other := _recipe_with(error.paths, recipe)) is None:
            raise
        raise UserError(_for_another(error, other, recipe, config_file)) from None
    except MissingValues as error:
        if config_file or recipe.parent != RECIPES or not config_names(recipe.stem):
            raise
        name = recipe_label(recipe)
        raise UserError(
            f"{error}\n  or start from a config: `tune ls {name}` lists those of {name}"
        ) from None


def _refuse_anothers(recipe: Path, config_file: Path) -> None:
    """Refuse a config that is another built-in recipe's by its folder or name, whatever its keys are.

    A recipe with a name of its own takes the configs of what it was copied from.
    """
    from tune_recipes.catalog import config_label, recipe_named_by, recipe_names
    from tune_recipes.errors import UserError

    other = recipe_named_by(config_file)
    if other and recipe.stem in recipe_names() and other != recipe.stem:
        raise UserError(
            f"{config_label(config_file)} is a config for {other}, not for {recipe.stem}\n"
            f"  {_run_it_with(other, config_file)}"
        )


def _run_it_with(recipe: str, config_file: Path) -> str:
    from tune_recipes.catalog import CONFIGS, shown

    name = config_file.stem if config_file.parent.parent == CONFIGS else shown(config_file)
    return f"run it with `tune run {recipe} --config {name}`"


def _recipe_with(options: Sequence[str], recipe: Path) -> str | None:
    """Return the built-in recipe that has options which `recipe` has not."""
    from tune_recipes.catalog import builtin_recipe, recipe_names
    from tune_recipes.options import type_at
    from tune_recipes.recipe_source import read_config_class

    for name in recipe_names():
        path = builtin_recipe(name)
        if name != recipe.stem and path:
            config = read_config_class(path)
            if all(type_at(config, option) is not None for option in options):
                return name
    return None


def _for_another(error: Exception, other: str, recipe: Path, config_file: Path | None) -> str:
    from tune_recipes.catalog import config_label

    first, *more = str(error).splitlines()
    if config_file is None or "(from " in first:  # the command line's own words
        return f"{first}\n  it is an option of {other}, not of {recipe.stem}: `tune run {other} --help`"
    told = "\n  ".join([first, *more][:3])
    return (
        f"{config_label(config_file)} is a config for {other}, not for {recipe.stem}:\n  {told}\n"
        f"  {_run_it_with(other, config_file)}"
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

        name, folder = error.folder.name, shown(error.folder)
        model = name if resolve_alias(name) else "ORGANISATION/MODEL"
        to_folder = "" if folder == f"models/{model.lower()}" else f" --output-dir {folder}"
        error.args = (
            f"{error}\n  to get it: `tune download {model}{to_folder}`\n"
            f"  or, from a GGUF file: `tune convert-ckpt FILE.gguf --output-dir {folder}`",
        )
        raise
