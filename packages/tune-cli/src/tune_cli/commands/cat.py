"""`tune cat`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

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
    from tune_cli.configured import load, recipe_for, split_overrides
    from tune_recipes.catalog import find_config

    path = find_config(config)
    names, changes = split_overrides([word for word in (recipe, *overrides) if word is not None])
    if not (resolved or origins or names or changes):
        _print_file(path, json=json)
        return
    found = recipe_for(names, path, config, "cat")
    loaded = load(found, path, [*names[1:], *changes], OPTIONS, keep_open=True)
    if origins:
        _print_origins(loaded, json=json)
    elif json:
        print_json(loaded.tree())
    else:
        from tune_recipes.yaml_file import dump_yaml

        sys.stdout.write(dump_yaml(loaded.tree(), loaded.left_open))


def _print_file(path: Path, *, json: bool) -> None:
    if json:
        from tune_recipes.yaml_file import read_yaml

        print_json(read_yaml(path)[0])
    else:
        from tune_recipes.files import read_text

        sys.stdout.write(read_text(path))


def _print_origins(loaded: "Loaded", *, json: bool) -> None:
    import msgspec

    from tune_recipes.options import as_text

    rows = {path: (_value(loaded.tree(), path), str(origin)) for path, origin in loaded.origins.items()}
    rows = {path: row for path, row in rows.items() if row[0] is not msgspec.UNSET}
    if json:
        print_json({path: {"value": value, "origin": origin} for path, (value, origin) in rows.items()})
        return
    left = {
        path: f"{path}: {value if path in loaded.left_open else as_text(value)}"
        for path, (value, _) in rows.items()
    }
    width = min(48, max(map(len, left.values())))
    for path, (_, origin) in rows.items():
        sys.stdout.write(f"{left[path]:<{width}}  # {origin}\n")


def _value(tree: Any, path: str) -> Any:
    """Return the value at a dotted name, UNSET if there is none; names in a mapping may hold dots."""
    import msgspec

    if not isinstance(tree, dict):
        return msgspec.UNSET
    values = cast("dict[str, Any]", tree)
    if path in values:
        return values[path]
    first, _, rest = path.partition(".")
    return _value(values.get(first), rest) if rest else msgspec.UNSET
