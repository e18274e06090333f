"""Finds recipes, configs and bundled files: whatever stands in the folders beside this module is built in."""

import os
from pathlib import Path

from tune_recipes.errors import UserError
from tune_recipes.suggest import did_you_mean

ROOT = Path(__file__).parent
RECIPES = ROOT / "recipes"
CONFIGS = ROOT / "configs"
BUILTIN_PREFIX = "builtin:"


def recipe_names() -> list[str]:
    """Names of the built-in recipes, without suffix, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.py"))


def config_names(recipe: str) -> list[str]:
    """Names of the built-in configs of a built-in recipe, without suffix, sorted."""
    return sorted(path.stem for path in (CONFIGS / recipe).glob("*.yaml"))


def all_config_names() -> list[str]:
    """Names of all built-in configs."""
    return [name for recipe in recipe_names() for name in config_names(recipe)]


def builtin_recipe(name: str) -> Path | None:
    """Path of the built-in recipe `name` (with or without `.py`), or None."""
    path = RECIPES / f"{name.removesuffix('.py')}.py"
    return path if _is_plain(name) and path.is_file() else None


def builtin_config(name: str) -> Path | None:
    """Path of the built-in config `name` (with or without `.yaml`), or None."""
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    if not _is_plain(name):
        return None
    return next(iter(CONFIGS.glob(f"*/{stem}.yaml")), None)


def find_recipe(name: str) -> Path:
    """Return the recipe file that `name` means: a file as it is typed, else a built-in recipe.

    Raises:
        UserError: There is neither.
    """
    if name.endswith(".py") and Path(name).is_file():
        return Path(name)
    if builtin := builtin_recipe(name):
        return builtin
    if not _is_plain(name):
        raise UserError(
            f"{name}: no such recipe file\n  `tune cp full_finetune {shown(name)}` makes one to start from"
        )
    if builtin_config(name):
        recipe = recipe_of_config(builtin_config(name), name)
        raise UserError(f"{name} is a config, not a recipe; run it with `tune run {recipe} --config {name}`")
    hint = did_you_mean(name.removesuffix(".py"), recipe_names())
    raise UserError(f"{name}: no such recipe{hint}\n  `tune ls` lists the recipes and their configs")


def find_config(name: str) -> Path:
    """Return the config file that `name` means: a file as it is typed, else a built-in config.

    Raises:
        UserError: There is neither.
    """
    if Path(name).is_file():
        return Path(name)
    if builtin := builtin_config(name):
        return builtin
    if not _is_plain(name):
        raise UserError(f"{name}: no such config file\n  `tune ls` lists the configs, `tune cp` copies one")
    hint = did_you_mean(name.removesuffix(".yaml"), all_config_names())
    raise UserError(f"{name}: no such config{hint}\n  `tune ls` lists the recipes and their configs")


def recipe_of_config(path: Path | None, name: str) -> str:
    """Return the name of the built-in recipe that a config is for.

    A built-in config stands in its recipe's folder; any other is known by its name, which ends in the
    recipe's, as `mine_full_finetune.yaml`.

    Raises:
        UserError: Neither tells.
    """
    if path is not None:
        if path.parent.parent == CONFIGS:
            return path.parent.name
        for recipe in sorted(recipe_names(), key=len, reverse=True):
            if path.stem == recipe or path.stem.endswith(f"_{recipe}"):
                return recipe
    raise UserError(f"{name}: for which recipe? Its name does not tell; give the recipe after it")


def local_path(text: str) -> Path:
    """Return the path that a config's text means; `builtin:demo` is a folder that ships with the package."""
    if text.startswith(BUILTIN_PREFIX):
        return ROOT / "builtin" / text.removeprefix(BUILTIN_PREFIX)
    return Path(text).expanduser()


def config_label(path: Path) -> str:
    """Return how messages call a config file: a built-in one by its name, any other by its path."""
    return path.name if path.parent.parent == CONFIGS else str(path)


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as a shell takes it."""
    import shlex

    return shlex.quote(os.fspath(path))


def _is_plain(name: str) -> bool:
    """Whether `name` can be a built-in name: no folder in it, and nothing that a glob would expand."""
    return bool(name) and not any(char in name for char in "/\\*?[")
