"""Finds recipes, configs and bundled files: whatever stands in the folders beside this module is built in."""

import os
from pathlib import Path
from typing import Literal

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
    stem = name.removesuffix(".py")
    return RECIPES / f"{stem}.py" if stem in recipe_names() else None


def builtin_config(name: str) -> Path | None:
    """Path of the built-in config `name` (with or without `.yaml`), or None."""
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    folders = [recipe for recipe in recipe_names() if stem in config_names(recipe)]
    return CONFIGS / folders[0] / f"{stem}.yaml" if folders else None


def find_recipe(name: str) -> Path:
    """Return the recipe file that `name` means: a file as it is typed, else a built-in recipe.

    Raises:
        UserError: There is neither.
    """
    if name.endswith(".py") and kind_at(name) == "file":
        return Path(name)
    if builtin := builtin_recipe(name):
        return builtin
    if config := builtin_config(name):
        recipe = recipe_of_config(config, name)
        raise UserError(f"{name} is a config, not a recipe; run it with `tune run {recipe} --config {name}`")
    if kind_at(name) == "file" and name.endswith((".yaml", ".yml")):
        raise UserError(
            f"{name} is a config, not a recipe; run it with `tune run RECIPE --config {shown(name)}`"
        )
    if not _is_plain(name) and not kind_at(name) and not kind_at(f"{name}.py"):
        copy = name if name.endswith(".py") else f"{name}.py"
        raise UserError(
            f"{name}: no such recipe file\n  `tune cp full_finetune {shown(copy)}` makes one to start from"
        )
    what = _what_is_there(name, "a recipe is a Python file, as mine.py", ".py")
    hint = what or did_you_mean(name.removesuffix(".py").removesuffix(".yaml"), recipe_names())
    raise UserError(f"{shown(name)}: no such recipe{hint}\n  `tune ls` lists the recipes and their configs")


def find_config(name: str) -> Path:
    """Return the config file that `name` means: a file as it is typed, else a built-in config.

    Raises:
        UserError: There is neither.
    """
    if kind_at(name) == "file":
        return Path(name)
    if builtin := builtin_config(name):
        return builtin
    if recipe := builtin_recipe(name):
        raise UserError(
            f"{name} is a recipe, not a config; `tune ls {recipe.stem}` lists its configs\n"
            f"  `tune run {recipe.stem} --help` lists its options"
        )
    what = _what_is_there(name, "a config is a YAML file, as mine.yaml", ".yaml", ".yml")
    hint = what or did_you_mean(name.removesuffix(".yaml").removesuffix(".yml"), all_config_names())
    file = "" if _is_plain(name) else " file"
    raise UserError(
        f"{shown(name)}: no such config{file}{hint}\n  `tune ls` lists them, `tune cp` copies one"
    )


def _what_is_there(name: str, needed: str, *suffixes: str) -> str:
    """Return why a path that is nearly right is not, or nothing."""
    if near := [name + suffix for suffix in suffixes if kind_at(name + suffix) == "file"]:
        return f"; did you mean {near[0]}?"
    if kind_at(name) == "folder":
        return f", it is a folder; {needed}"
    return f"; {needed}" if kind_at(name) == "file" else ""


def recipe_of_config(path: Path, name: str, command: str = "validate") -> str:
    """Return the name of the built-in recipe that a config is for.

    Args:
        path: The config file.
        name: What was typed for it.
        command: The command to advise where neither its folder nor its name tells.

    Raises:
        UserError: Neither does.
    """
    if recipe := recipe_named_by(path):
        return recipe
    words = f"{shown(name)} full_finetune" if command != "run" else f"full_finetune --config {shown(name)}"
    raise UserError(
        f"{name}: for which recipe? Its name does not end in one's; give the recipe too\n"
        f"  as in `tune {command} {words}`; the recipes: {', '.join(recipe_names())}"
    )


def recipe_named_by(config_file: Path) -> str | None:
    """Return the name of the built-in recipe that a config's folder or name says it is for, or None.

    A built-in config stands in its recipe's folder; any other is known by its name, which ends in the
    recipe's, as `mine_full_finetune.yaml`.
    """
    if config_file.parent.parent == CONFIGS:
        return config_file.parent.name
    stem = config_file.stem
    longest_first = sorted(recipe_names(), key=len, reverse=True)
    return next((name for name in longest_first if stem == name or stem.endswith(f"_{name}")), None)


def local_path(text: str) -> Path:
    """Return the path that a config's text means; `builtin:demo` is a folder that ships with the package.

    Raises:
        UserError: What stands behind `builtin:` leads out of the package.
    """
    if not text.startswith(BUILTIN_PREFIX):
        return expand_home(text)
    inside = Path(text.removeprefix(BUILTIN_PREFIX))
    if inside.is_absolute() or ".." in inside.parts:
        raise UserError(f"{text} does not ship with tune; this does: {', '.join(builtin_files())}")
    return ROOT / "builtin" / inside


def expand_home(text: str) -> Path:
    """Return a path with `~` as the home folder, which no shell puts in behind `=`."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~NAME, and there is no user of that name
        return Path(text)


def builtin_files() -> list[str]:
    """Return what ships with the package as configs name it, as `builtin:demo/capitals.jsonl`."""
    root = ROOT / "builtin"
    paths = sorted(path for path in root.rglob("*") if path.is_dir() or path.suffix == ".jsonl")
    return [BUILTIN_PREFIX + path.relative_to(root).as_posix() for path in paths]


def config_label(path: Path) -> str:
    """Return how messages call a config file: a built-in one by its name, any other by its path."""
    return path.name if path.parent.parent == CONFIGS else str(path)


def recipe_label(path: Path) -> str:
    """Return how commands name a recipe file: a built-in one by its name, any other by its path."""
    return path.stem if path.parent == RECIPES else shown(path)


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as a shell takes it."""
    import shlex

    return shlex.quote(os.fspath(path))


def kind_at(name: str) -> Literal["file", "folder"] | None:
    """Return what stands at a path; nothing does where the name is too long or may not be looked at."""
    path = Path(name)
    try:
        return "file" if path.is_file() else "folder" if name and path.is_dir() else None
    except OSError:
        return None


def _is_plain(name: str) -> bool:
    """Whether `name` can be a built-in name: no folder in it."""
    return not any(separator in name for separator in "/\\")
