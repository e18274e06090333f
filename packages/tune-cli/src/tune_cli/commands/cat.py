"""`tune cat`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tune_cli.output import print_json

if TYPE_CHECKING:
    from tune_recipes.config import Loaded

OPTIONS = ("--resolved", "--origins", "--json", "--help")


def cat(
    config: str,
    recipe: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    resolved: bool = False,
    origins: bool = False,
    json: bool = False,
) -> None:
    """Print a config, or every value that it leads to.

    Args:
        config: Built-in config, or a path.
        recipe: The recipe that it is for, where its name does not tell.
        overrides: Options to change.
        resolved: Print every value after defaults and overrides.
        origins: Print where each value comes from.
        json: Print it as JSON.
    """
    from tune_cli.configured import load, split_overrides
    from tune_recipes.catalog import find_config, find_recipe, recipe_of_config

    path = find_config(config)
    names, changes = split_overrides([word for word in (recipe, *overrides) if word is not None])
    if not (resolved or origins or names or changes):
        _print_file(path, json=json)
        return
    name = names[0] if names else recipe_of_config(path, config)
    loaded = load(find_recipe(name), path, [*names[1:], *changes], OPTIONS)
    if origins:
        _print_origins(loaded, json=json)
    elif json:
        print_json(loaded.tree())
    else:
        from tune_recipes.config import dump_yaml

        sys.stdout.write(dump_yaml(loaded.tree()))


def _print_file(path: Path, *, json: bool) -> None:
    if json:
        from tune_recipes.config import read_yaml

        print_json(read_yaml(path)[0])
    else:
        sys.stdout.write(path.read_text(encoding="utf-8"))


def _print_origins(loaded: "Loaded", *, json: bool) -> None:
    import msgspec

    rows = {path: (_value(loaded.tree(), path), str(origin)) for path, origin in loaded.origins.items()}
    rows = {path: row for path, row in rows.items() if row[0] is not msgspec.UNSET}
    if json:
        print_json({path: {"value": value, "origin": origin} for path, (value, origin) in rows.items()})
        return
    left = {path: f"{path}: {msgspec.json.encode(value).decode()}" for path, (value, _) in rows.items()}
    width = min(48, max(map(len, left.values())))
    for path, (_, origin) in rows.items():
        sys.stdout.write(f"{left[path]:<{width}}  # {origin}\n")


def _value(tree: Any, path: str) -> Any:
    import msgspec

    for part in path.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return msgspec.UNSET
        tree = tree[part]
    return tree
