"""`tune validate`."""

from typing import Annotated

from cyclopts import Parameter

OPTIONS = ("--help",)


def validate(
    config: str,
    recipe: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
) -> None:
    """Check a config and that the files it names exist.

    Args:
        config: Built-in config, or a path.
        recipe: The recipe that it is for, where its name does not tell.
        overrides: Options to change.
    """
    from tune_cli.configured import check, load, recipe_for, split_overrides
    from tune_recipes.catalog import find_config

    path = find_config(config)
    names, changes = split_overrides([word for word in (recipe, *overrides) if word is not None])
    found = recipe_for(names, path, config, "validate")
    check(load(found, path, [*names[1:], *changes], OPTIONS))
    print(f"{path.name} is valid for {found.name}")
